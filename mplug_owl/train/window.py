"""One step's rows on this rank, and what all ranks agree about them before the first forward.

The loss is a mean over the whole window on all ranks, and ranks that hold shards of one owl must make the same vision
calls; so the counts and the calls are gathered first. Where the data of one rank fail, all ranks raise, and none waits
for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mplug_owl.errors import OwlError
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.train.objective import calls_of
from mplug_owl.train.parallel import World


class Rows(Protocol):
    """A micro-batch, as `data.loader.MicroBatch` is one."""

    @property
    def inputs(self) -> dict[str, Any]: ...
    @property
    def labels(self) -> torch.Tensor: ...
    @property
    def ids(self) -> list[str]: ...
    @property
    def targets(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def images(self) -> int: ...

    def to(self, device: Any, dtype: Any = None) -> "Rows": ...


class Batches(Protocol):
    """This rank's part of the data, as `data.loader.Loader` gives it."""

    steps_per_epoch: int
    wait_seconds: float

    def step(self, step: int) -> Sequence[Rows]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Window:
    rows: list[Rows]
    """This rank's micro-batches; every rank has as many."""
    calls: list[list[int]]
    """Vision calls of each micro-batch, the same on every rank."""
    micro_targets: list[int]
    """Supervised tokens of each micro-batch, summed over ranks."""
    counts: dict[str, int]
    """Of all ranks: tokens, targets, images, samples."""

    @property
    def ids(self) -> list[str]:
        return [name for rows in self.rows for name in rows.ids]


@dataclass(frozen=True)
class _Share:
    """What one rank tells the others."""

    calls: list[set[int]]
    targets: list[int]
    counts: dict[str, int]


def agree(batches: Batches, step: int, owl: OwlForConditionalGeneration, world: World) -> Window:
    """This rank's micro-batches of a step, and what it must know of the others'."""
    rows: list[Rows] = []
    mine: _Share | OwlError
    try:
        rows = list(batches.step(step))
    except OwlError as error:
        mine = error
    else:
        mine = _Share(
            [calls_of(owl, micro.inputs) for micro in rows],
            [micro.targets for micro in rows],
            {
                "tokens": sum(micro.tokens for micro in rows),
                "targets": sum(micro.targets for micro in rows),
                "images": sum(micro.images for micro in rows),
                "samples": sum(len(micro.ids) for micro in rows),
            },
        )
    shares: list[_Share] = []
    for told in world.gather(mine):
        if isinstance(told, OwlError):
            raise told
        shares.append(told)
    calls = [set().union(*sets) for sets in zip(*(s.calls for s in shares), strict=True)]
    return Window(
        rows,
        [sorted(frames) for frames in calls],
        [sum(targets) for targets in zip(*(s.targets for s in shares), strict=True)],
        {name: sum(s.counts[name] for s in shares) for name in shares[0].counts},
    )
