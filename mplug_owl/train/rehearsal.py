"""A dress rehearsal of one micro-batch: the real model runs forward and backward without data.

Its tensors are fake: they have shapes, dtypes and lifetimes, but no memory and no values, so an owl of any size takes
seconds on any machine. Each operation that passes is counted: its FLOPs, and the bytes that it makes and lets go.
Nothing is derived from formulas about layers, so whatever the model does (freezing, LoRA, activation checkpointing, a
new family) is in the numbers. What a step, a run or a GPU is, this file does not know.
"""

import weakref
from collections import Counter
from collections.abc import Callable
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

PLACE_WORDS, PLACE_NAMES = 160, 4  # words of a batch and of one place in it, about those of the drawn world

aten = torch.ops.aten
# Everything else that has a FLOP formula is a linear layer or a convolution. Attention without a fused kernel is two
# batched products; no layer of an owl makes one for another purpose but the rotary angles, which weigh nothing.
_BATCHED_PRODUCTS = {aten.bmm, aten.baddbmm}
_KINDS = {**{part: f"activations of {part}" for part in PARTS}, "head": "logits"}  # of memory, by part


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
    places: bool = False
    """f_V alone names what is where; a row is one picture."""


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
    arrived, as in a run. The model is left with fake tensors and hooks: build it for this.
    """

    def fake(_: str, old: Tensor) -> Tensor:
        return torch.empty(old.shape, dtype=dtype if isinstance(old, nn.Parameter) else old.dtype)

    with FakeTensorMode(), _Recorder() as recorder:
        rebuild(model, fake)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(_pass_on)
        training_mode(model)
        _watch(model, recorder)
        recorder.part = "inputs"
        inputs = _inputs(model.config, shape)
        recorder.part = "head" if shape.places else "language"
        loss = _place_loss(model, inputs["pixel_values"], recorder) if shape.places else _loss(model, inputs)
        if not loss.requires_grad:
            raise ConfigError(
                f"media={shape.media}: without pictures nothing that trains takes part; give rows "
                "at least one, or train the language model"
            )
        recorder.in_backward = True
        torch.autograd.backward(loss)
    kinds = ("inputs", *_KINDS.values(), "backward pass")
    peak = {kind: recorder.peak[kind] for kind in kinds if recorder.peak[kind]}
    return Trace(recorder.work["linear"], recorder.work["attention"], peak)


def _pass_on(weight: Tensor) -> None:
    weight.grad = None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, with the part of the model it belongs to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = "weights"
        self.in_backward = False
        self.work = {what: dict.fromkeys(PARTS, Work()) for what in ("linear", "attention")}
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.known: set[int] = set()
        """Identities of the live storages."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count(func.overloadpacket, args, kwargs or {}, out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.hold(leaf.untyped_storage())
        return out

    @property
    def phase(self) -> str:
        if not self.in_backward:
            return "forward"
        # Only what is recomputed builds a graph during the backward pass.
        return "recompute" if torch.is_grad_enabled() else "backward"

    def count(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = packet.__name__
        if "scaled_dot_product" in name:
            # A fused backward kernel forms the scores again; that is no work of the model.
            backward = name.endswith("_backward")
            query, _, value = args[1:4] if backward else args[:3]
            products = 2 * query.shape[:-1].numel() * args[2 if backward else 1].shape[-2]
            flops = products * (query.shape[-1] + value.shape[-1]) * (2 if backward else 1)
            self.work["attention"][self.part] += Work(**{self.phase: flops})
        elif packet in flop_registry:
            what = "attention" if packet in _BATCHED_PRODUCTS else "linear"
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
            self.work[what][self.part] += Work(**{self.phase: flops})

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a storage not seen before, until it dies."""
        if id(storage) in self.known:
            return
        kind = "backward pass" if self.phase == "backward" else _KINDS.get(self.part, self.part)
        self.known.add(id(storage))
        weakref.finalize(storage, self.release, id(storage), kind, storage.nbytes()).atexit = False
        self.live[kind] += storage.nbytes()
        if self.live.total() > self.peak.total():
            self.peak = self.live.copy()

    def release(self, key: int, kind: str, size: int) -> None:
        self.known.remove(key)
        self.live[kind] -= size


def _watch(model: OwlForConditionalGeneration, recorder: _Recorder) -> None:
    """Tell the recorder which part is at work, forward and backward."""

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

    owl = model.model
    modules = (owl.vision, owl.abstractor, owl.language_model, model.lm_head)
    for part, module in zip(PARTS, modules, strict=True):
        module.register_forward_pre_hook(enter(part))
        module.register_forward_hook(leave(part))


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
        inputs["pixel_values_videos"] = torch.empty(rows * shape.media, shape.frames, 3, side, side)
    elif shape.media:
        inputs["pixel_values"] = torch.empty(rows * shape.media, 3, side, side)
    return inputs


def _place_loss(model: OwlForConditionalGeneration, pixels: Tensor, recorder: _Recorder) -> Tensor:
    """The loss of naming places; which words a batch holds is known only with its data."""
    objective = Objective(model)
    seen_FPD = objective.see_patches(pixels)
    recorder.part = "head"
    wanted = torch.empty(*seen_FPD.shape[:2], PLACE_NAMES, dtype=torch.long)
    return objective.name_patches(seen_FPD, torch.empty(PLACE_WORDS, dtype=torch.long), wanted, wanted >= 0)


def _loss(model: OwlForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    """The loss as the run computes it, but for two things that fake tensors, having no values, cannot do: media are
    merged by an index, not by comparing ids, and all text counts as learnt from.
    """
    objective = Objective(model)
    features, _ = objective.look(inputs, sorted(calls_of(model, inputs)))
    rest = {name: tensor for name, tensor in inputs.items() if "pixel" not in name}
    text_BLD = model.model.embed_text(inputs["labels"])
    rows_ND = [rows.flatten(0, 1) for rows in features.values()]
    index = torch.empty(sum(len(rows) for rows in rows_ND), dtype=torch.long)
    for rows in rows_ND:
        merged = text_BLD.flatten(0, 1).index_copy(0, index, rows)
        text_BLD = merged.view_as(text_BLD)
    if getattr(model.model.language_model, "takes_visual_index", False):
        rest["visual_index"] = index
    labels = rest.pop("labels")
    states = model.model(**rest, inputs_embeds=text_BLD, use_cache=False).last_hidden_state
    wanted = labels[:, 1:].flatten()
    return objective.judge(states, wanted, torch.empty(len(wanted) - len(index), dtype=torch.long))
