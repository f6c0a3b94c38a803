"""A dress rehearsal of one micro-batch: the real model runs forward and backward without data.

Its tensors are fake: they have shapes, dtypes and lifetimes, but no memory and no values, so an owl of any size takes
seconds on any machine. Each operation that passes is counted: its FLOPs, and the bytes that it makes and lets go.
Nothing is derived from formulas about layers, so whatever the model does (freezing, LoRA, activation checkpointing, a
new family) is in the numbers. What a step, a run or a GPU is, this file does not know.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import BloomConfig

from mplug_owl.errors import ConfigError
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.train.objective import Objective, calls_of
from mplug_owl.train.parallel import rebuild, training_mode

PARTS = ("vision", "abstractor", "language", "head")

aten = torch.ops.aten
# Everything else that has a FLOP formula is a linear layer or a convolution. Attention without a fused kernel is two
# batched products; no layer of an owl makes one for another purpose but the rotary angles, which weigh nothing.
_BATCHED_PRODUCTS = {aten.bmm, aten.baddbmm}


@dataclass(frozen=True)
class Shape:
    """A micro-batch: `rows` of `length` positions, each with `media` pictures or videos."""

    rows: int
    length: int
    media: int
    frames: int = 1
    """Pictures are one frame; more make each medium a video."""
    packed: bool = True
    """Rows hold several samples, kept apart by a mask of their own."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one part."""

    forward: int = 0
    backward: int = 0
    recompute: int = 0
    """Forward work done again in the backward pass, under activation checkpointing."""

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward, self.recompute + other.recompute)

    def scaled(self, factor: float) -> "Work":
        return Work(*(round(factor * n) for n in (self.forward, self.backward, self.recompute)))


@dataclass(frozen=True)
class Trace:
    """What the rehearsal saw."""

    linear: dict[str, Work]
    """FLOPs of linear layers and convolutions by part."""
    attention: dict[str, Work]
    """FLOPs of attention by part: scores and weighted sums, masked positions included."""
    peak: dict[str, int]
    """Bytes by kind at the moment when most were alive: all that comes and goes with a micro-batch."""


def rehearse(model: OwlForConditionalGeneration, shape: Shape, dtype: torch.dtype) -> Trace:
    """Run one micro-batch through `model`, which computes in `dtype` and passes each gradient on as soon as it has
    arrived, as in a run. The model is left with fake tensors: build it for this.
    """
    with FakeTensorMode(), _Recorder() as recorder:
        recorder.part = "weights"
        rebuild(model, lambda _, old: torch.empty(old.shape, dtype=_as_in_a_run(old, dtype)))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(_pass_on)
        training_mode(model)
        with _watched(model, recorder):
            recorder.part = "inputs"
            inputs = _inputs(model.config, shape)
            recorder.part = "language"
            loss = _loss(model, shape, inputs)
        if not loss.requires_grad:
            raise ConfigError(
                f"media={shape.media}: without pictures nothing that trains takes part; give rows "
                "at least one, or train the language model"
            )
        with recorder.backward_pass():
            torch.autograd.backward(loss)
    return recorder.trace()


def _as_in_a_run(old: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if isinstance(old, nn.Parameter) else old.dtype


def _pass_on(weight: Tensor) -> None:
    weight.grad = None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, with the part of the model it belongs to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = "language"
        self.in_backward = False
        self.flops: Counter[tuple[str, str, str]] = Counter()
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self.highest = self.total = 0
        self.kinds: dict[int, str] = {}
        """Kind of every live storage, by identity."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count(func.overloadpacket, args, kwargs or {}, out)
        kind = self.kind()
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.hold(leaf, kind)
        return out

    @property
    def recomputing(self) -> bool:
        """Only what is recomputed builds a graph during the backward pass."""
        return self.in_backward and torch.is_grad_enabled()

    def kind(self) -> str:
        if self.in_backward and not self.recomputing:
            return "backward pass"
        named = {"head": "logits", "inputs": "inputs", "weights": "weights"}
        return named.get(self.part, f"activations of {self.part}")

    def count(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        phase = "forward"
        if self.in_backward:
            phase = "recompute" if self.recomputing else "backward"
        name = packet.__name__
        if "scaled_dot_product" in name:
            # A fused backward kernel forms the scores again; that is no work of the model.
            backward = name.endswith("_backward")
            query, _, value = args[1:4] if backward else args[:3]
            products = 2 * query.shape[:-1].numel() * args[2 if backward else 1].shape[-2]
            flops = products * (query.shape[-1] + value.shape[-1]) * (2 if backward else 1)
            self.flops["attention", self.part, phase] += flops
        elif packet in flop_registry:
            what = "attention" if packet in _BATCHED_PRODUCTS else "linear"
            self.flops[what, self.part, phase] += flop_registry[packet](*args, **kwargs, out_val=out)

    def hold(self, tensor: Tensor, kind: str) -> None:
        """Count the bytes of a storage not seen before, until it dies."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.kinds:
            return
        self.kinds[key] = kind
        weakref.finalize(storage, self.release, key, size).atexit = False
        self.add(kind, size)

    def release(self, key: int, size: int) -> None:
        self.add(self.kinds.pop(key), -size)

    def add(self, kind: str, size: int) -> None:
        if kind == "weights":
            return
        self.live[kind] += size
        self.total += size
        if self.total > self.highest:
            self.highest = self.total
            self.peak = dict(self.live)

    @contextmanager
    def backward_pass(self) -> Iterator[None]:
        self.in_backward = True
        yield
        self.in_backward = False

    def trace(self) -> Trace:
        def work(what: str, part: str) -> Work:
            return Work(*(self.flops[what, part, phase] for phase in ("forward", "backward", "recompute")))

        return Trace(
            linear={part: work("linear", part) for part in PARTS},
            attention={part: work("attention", part) for part in PARTS},
            peak={kind: size for kind, size in self.peak.items() if size},
        )


@contextmanager
def _watched(model: OwlForConditionalGeneration, recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which part is at work, forward and backward."""
    owl = model.model
    modules = (owl.vision, owl.abstractor, owl.language_model, model.lm_head)

    def enter(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            recorder.part = part

        return hook

    def leave(part: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, out: Any) -> None:
            hidden = out if isinstance(out, Tensor) else out.last_hidden_state
            if hidden.requires_grad:  # its gradient is ready: from here on the part's own backward
                hidden.register_hook(enter(part))
            # The loss belongs to the head, embedding and merging to the language model.
            recorder.part = "head" if part == "head" else "language"

        return hook

    handles = []
    for part, module in zip(PARTS, modules, strict=True):
        handles.append(module.register_forward_pre_hook(enter(part)))
        handles.append(module.register_forward_hook(leave(part)))
    yield
    for handle in handles:
        handle.remove()


def _inputs(config: OwlConfig, shape: Shape) -> dict[str, Tensor]:
    vision: Any = config.vision_config
    rows, length, side = shape.rows, shape.length, vision.image_size
    inputs = {"labels": torch.empty(rows, length, dtype=torch.long)}
    if shape.packed and not isinstance(config.text_config, BloomConfig):
        inputs["attention_mask"] = torch.empty(rows, 1, length, length, dtype=torch.bool)
        inputs["position_ids"] = torch.empty(rows, length, dtype=torch.long)
    else:
        inputs["attention_mask"] = torch.empty(rows, length, dtype=torch.long)
    if shape.media and shape.frames > 1:
        frames = (shape.frames, 3, side, side)
        inputs["pixel_values_videos"] = torch.empty(rows * shape.media, *frames)
    elif shape.media:
        inputs["pixel_values"] = torch.empty(rows * shape.media, 3, side, side)
    return inputs


def _loss(model: OwlForConditionalGeneration, shape: Shape, inputs: dict[str, Tensor]) -> Tensor:
    """The loss as the run computes it, but for one thing: media are merged by an index, not by comparing ids, which
    fake tensors, having no values, cannot do.
    """
    owl = model.model
    features, _ = Objective(model).look(inputs, sorted(calls_of(model, inputs)))
    text_BLD = owl.embed_text(inputs["labels"])
    rows_ND = [rows.flatten(0, 1) for rows in features.values()]
    index = torch.empty(sum(len(rows) for rows in rows_ND), dtype=torch.long)
    for rows in rows_ND:
        merged = text_BLD.flatten(0, 1).index_copy(0, index, rows)
        text_BLD = merged.view_as(text_BLD)
    visual = getattr(owl.language_model, "takes_visual_index", False)
    return model(
        inputs_embeds=text_BLD,
        **{name: tensor for name, tensor in inputs.items() if "pixel" not in name},
        **({"visual_index": index} if visual else {}),
        num_items_in_batch=1,
        use_cache=False,
    ).loss
