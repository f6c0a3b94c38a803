"""The decode step as fixed computations: recorded once for each shape, replayed for every token after.

A GPU is done with a step of few rows before Python has launched its kernels one by one; a recorded step is one launch.
Rows come in powers of two and keys in coarse steps, so that few shapes serve all; rows that nobody has are marked and
write nothing. A shape is recorded when it is first needed, and all are void once the cache lies elsewhere. What a step
computes is not known here; how it is recorded, RECORDERS says for each kind of device.

Shapes: B rows of a recorded shape, S slots, V vocabulary.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mplug_owl.engine.cache import SlotCache

LEAST_KEYS = 256
ABSENT = -1  # the length of a row that is not there

Computation = Callable[[], None]
Recorder = Callable[[Computation], Computation]
"""Makes of a computation over memory that stays where it is one that does the same again, sooner."""
Scoring = Callable[[Tensor, Tensor, Tensor | None, int, Tensor | None], Tensor]
"""Ids, lengths and rotary stretches [B], a number of keys and the bias of their scores, to scores [B, V]."""


class Unrecordable(Exception):
    """A step that does something which cannot be recorded."""


class Shape(NamedTuple):
    rows: int
    keys: int


class Recording(NamedTuple):
    """One shape: where its inputs go, and what to call then."""

    ids_and_lengths: Tensor
    """[2, B]"""
    alpha_B: Tensor | None
    replay: Computation


class Graphs:
    def __init__(
        self,
        store: SlotCache,
        score: Scoring,
        bias: Callable[[int], Tensor | None],
        record: Recorder,
        stretched: bool = False,
    ) -> None:
        self.store, self.score, self.bias, self.record, self.stretched = store, score, bias, record, stretched
        self.forget()

    def forget(self) -> None:
        self.version = self.store.version
        self.recordings: dict[Shape, Recording] = {}
        self.biases: dict[int, Tensor | None] = {}
        self.scores_SV: Tensor | None = None
        """What every shape writes to: what is left there by a step is read before the next."""

    def __call__(self, ids: Sequence[int], lengths: Sequence[int], alphas: Sequence[float | None]) -> Tensor:
        """Put `ids[b]` at place `lengths[b]` of slot b; scores of what comes next, one row each.

        Raises: Unrecordable, and nothing was written.
        """
        if self.version != self.store.version:
            self.forget()
        shape = self.shape(len(ids), max(lengths) + 1)
        if shape not in self.recordings:
            self.recordings[shape] = self.recording(shape)
        recording, absent = self.recordings[shape], shape.rows - len(ids)
        given = torch.tensor([[*ids, *[0] * absent], [*lengths, *[ABSENT] * absent]])
        recording.ids_and_lengths.copy_(given, non_blocking=True)
        if recording.alpha_B is not None:
            recording.alpha_B.copy_(torch.tensor([*alphas, *[1.0] * absent], dtype=torch.float64), non_blocking=True)
        recording.replay()
        assert self.scores_SV is not None
        return self.scores_SV[: len(ids)].clone()

    def shape(self, rows: int, keys: int) -> Shape:
        """The smallest recorded kind that holds so many."""
        return Shape(min(1 << (rows - 1).bit_length(), self.store.slots), min(coarse(keys), self.store.capacity))

    def recording(self, shape: Shape) -> Recording:
        rows, keys = shape
        device = self.store.pairs[0].device
        # Nobody is there yet, so trying it out writes nothing.
        both = torch.tensor([[0], [ABSENT]], device=device).repeat(1, rows)
        ids_B, lengths_B = both
        alpha_B = torch.ones(rows, dtype=torch.float64, device=device) if self.stretched else None
        if keys not in self.biases:
            self.biases[keys] = self.bias(keys)
        # Named here, not by way of self: what is recorded must not keep alive who holds it.
        score, bias = self.score, self.biases[keys]
        if self.scores_SV is None:
            tried = score(ids_B, lengths_B, alpha_B, keys, bias)
            self.scores_SV = tried.new_empty(self.store.slots, tried.shape[-1])
        scores_BV = self.scores_SV[:rows]

        def compute() -> None:
            scores_BV.copy_(score(ids_B, lengths_B, alpha_B, keys, bias))

        try:
            return Recording(both, alpha_B, self.record(compute))
        except RuntimeError as error:
            said = str(error).strip().split("\n")[0]
            raise Unrecordable(f"{rows} rows of {keys} keys cannot be recorded: {said}") from error


def coarse(keys: int) -> int:
    """A number of keys that is a little larger: by less than 256, or than a quarter."""
    step = max(LEAST_KEYS, 1 << max(0, (keys - 1).bit_length() - 3))
    return -(-keys // step) * step


class Replay:
    """A CUDA graph, and what it was made of: a graph knows where things lie, not that they are still needed."""

    def __init__(self, graph: torch.cuda.CUDAGraph, compute: Computation) -> None:
        self.graph, self.compute = graph, compute

    def __call__(self) -> None:
        self.graph.replay()


_RECORDING = threading.Lock()  # two captures at a time are not foreseen, and several engines may share a process


def cuda_graphs(device: torch.device) -> Recorder:
    """Records CUDA graphs that share one pool of memory: no two run at once, and each leaves nothing there."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Computation) -> Computation:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        # The outer stream is for a capture that breaks off, which does not put the old one back.
        with _RECORDING, torch.cuda.device(device), torch.cuda.stream(current):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                compute()  # what libraries set up at their first call must not be part of it
            current.wait_stream(stream)
            # Other threads may use the device meanwhile: what they do is their own business.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                compute()
        return Replay(graph, compute)

    return record


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": cuda_graphs}
