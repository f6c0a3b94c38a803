"""Weights in 8 or 4 bits: a smaller decoder that also decodes faster, and what that costs in accuracy.

On a CPU the weights are ours over PyTorch's own kernels: int8 with a scale for each row, int4 with a scale and an
offset for each 32 weights of a row; activations stay as they are. On an NVIDIA GPU torchao does it, if it is installed.
Only the decoder and its head are changed: the eyes are read once a picture. `cost` measures what was lost.

Shapes: N rows of a weight (outputs), K columns (inputs), G groups of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.messages import ImagePart, Message, TextPart
from mplug_owl.models.owl import OwlForConditionalGeneration

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl

SCHEMES = ("int8", "int4")
GROUP = 32
_KERNEL_ROWS = 8  # up to so many rows the int8 kernel beats widening the weight, measured on AVX-512 cores
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of a group's range: a few cut weights may serve all the others


QUESTIONS = (
    (True, "What is in the picture?"),
    (True, "Describe the picture in detail."),
    (True, "How many things are there, and of which colours?"),
    (False, "What is seven plus five?"),
    (False, "Name the capital of France and say something about it."),
    (False, "Tell a short story about an owl."),
)
"""Whether a picture is shown, and what is asked, to measure what a scheme costs."""


class Int8Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_NK = linear.weight.detach().float()
        scale_N = weight_NK.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight_NK / scale_N[:, None]).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale_N.to(linear.weight.dtype))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, scale = self.weight, self.scale
        assert isinstance(weight, Tensor) and isinstance(scale, Tensor)
        rows = x.numel() // self.in_features
        if x.dtype == torch.bfloat16 and rows <= _KERNEL_ROWS:
            out = torch._weight_int8pack_mm(x.reshape(rows, -1), weight, scale).view(*x.shape[:-1], -1)
        else:
            out = F.linear(x, weight.to(x.dtype)) * scale
        return out if self.bias is None else out + self.bias


class Int4Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        fill = -linear.out_features % 16  # the kernel takes rows by sixteen
        quarters_NK, scales_GN2 = four_bits(F.pad(linear.weight.detach().float(), (0, 0, 0, fill)))
        self.register_buffer("weight", torch.ops.aten._convert_weight_to_int4pack_for_cpu(quarters_NK, 1))
        self.register_buffer("scales", scales_GN2.to(linear.weight.dtype).contiguous())
        self.bias = linear.bias

    @staticmethod
    def takes(linear: nn.Linear) -> bool:
        return linear.in_features % GROUP == 0

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scales)
        out = out[:, : self.out_features].reshape(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def product(self) -> Callable[[Tensor], Tensor]:
        """Its forward for rows [B, K], without what calling a module costs: a decode step does little else."""
        if self.bias is not None or self.out_features % 16:
            return self
        multiply, weight, scales = torch.ops.aten._weight_int4pack_mm_for_cpu.default, self.weight, self.scales
        return lambda rows: multiply(rows, weight, GROUP, scales)


def four_bits(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as int32 0 .. 15 [N, K], and [G, N, 2] scale and offset: w = (q - 8) * scale + offset.

    Of several ranges each group takes the one that leaves the smallest squared error.
    """
    groups_NGK = weight_NK.view(len(weight_NK), -1, GROUP)
    low, high = groups_NGK.amin(-1, keepdim=True), groups_NGK.amax(-1, keepdim=True)
    best: tuple[Tensor, ...] = ()
    for shrink in _SHRINKS:
        middle, scale = (high + low) / 2, (shrink * (high - low) / 15).clamp(min=1e-12)
        start = middle - 7.5 * scale
        quarters = ((groups_NGK - start) / scale).round().clamp(0, 15)
        error = (quarters * scale + start - groups_NGK).square().sum(-1, keepdim=True)
        found = (error, quarters, scale, start + 8 * scale)
        better = error < best[0] if best else torch.ones_like(error, dtype=torch.bool)
        best = tuple(torch.where(better, new, old) for new, old in zip(found, best or found, strict=True))
    _, quarters, scale, offset = best
    return quarters.flatten(1).to(torch.int32), torch.cat((scale, offset), -1).transpose(0, 1)


def quantize(model: OwlForConditionalGeneration, scheme: str) -> None:
    """Replace the weights of the decoder and of the head, in place; the model can then no longer be trained or saved.

    Raises: ConfigError for an unknown scheme, or where the device needs a library that is not installed.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"quantize={scheme!r}{did_you_mean(scheme, SCHEMES)}")
    if model.device.type == "cuda":
        return _by_torchao(model, scheme)
    if model.device.type != "cpu":
        raise ConfigError(f"quantize={scheme!r} on {model.device.type!r}; weights of few bits run on cpu and cuda")
    decoder = model.model.language_model
    for parent in decoder.modules():
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, _smaller(child, scheme))
    setattr(model, "lm_head", _smaller(model.lm_head, scheme))  # noqa: B010 - it is no nn.Linear any more
    return None


def _smaller(linear: nn.Linear, scheme: str) -> nn.Module:
    return Int4Linear(linear) if scheme == "int4" and Int4Linear.takes(linear) else Int8Linear(linear)


def _by_torchao(model: OwlForConditionalGeneration, scheme: str) -> None:
    try:
        from torchao import quantization as torchao  # type: ignore[import-not-found]
    except ImportError:
        raise ConfigError(f"quantize={scheme!r} on a GPU needs torchao; install it with: pip install torchao") from None
    config = torchao.Int4WeightOnlyConfig(group_size=GROUP) if scheme == "int4" else torchao.Int8WeightOnlyConfig()
    torchao.quantize_(model.model.language_model, config)
    torchao.quantize_(model.lm_head, config)


# ---- what it costs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a scheme saves and what it loses, measured on texts that the model itself went on with."""

    scheme: str
    bytes_before: int
    bytes_after: int
    tokens: int
    agreement: float
    """How often the likeliest next token stays the same."""
    divergence: float
    """Mean KL divergence of the next token, in nats."""
    surprise: float
    """By how much the model's own tokens became less likely, in nats each."""

    def __str__(self) -> str:
        before, after = (size / 2**20 for size in (self.bytes_before, self.bytes_after))
        return (
            f"{self.scheme}: decoder and head {before:.1f} -> {after:.1f} MiB; over {self.tokens} tokens the likeliest "
            f"stays the same in {self.agreement:.1%}, KL {self.divergence:.4f} nats, own tokens {self.surprise:+.4f}"
        )


def measured(owl: "Owl", scheme: str) -> Cost:
    """Quantize an owl, in place, and say what it cost on a few questions, with and without a picture."""
    picture = Image.effect_mandelbrot((96, 96), (-2.0, -1.5, 1.0, 1.5), 40)
    asked = [Message("user", (*([ImagePart(picture)] if shown else []), TextPart(text))) for shown, text in QUESTIONS]
    return cost(owl.model, [owl.prepare([message]) for message in asked], scheme)


@torch.inference_mode()
def cost(model: OwlForConditionalGeneration, prompts: Sequence[dict[str, Any]], scheme: str, tokens: int = 48) -> Cost:
    """Quantize a model, in place, and compare it with what it was on its own greedy answers to `prompts`.

    `prompts` are what `model.generate` takes, one row each.
    """
    spoken = []
    for prompt in prompts:
        ids = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
        extra = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        spoken.append(({**prompt, **extra}, prompt["input_ids"].shape[1]))
    before = [_scores(model, inputs, start) for inputs, start in spoken]
    size = language_bytes(model)
    quantize(model, scheme)
    after = [_scores(model, inputs, start) for inputs, start in spoken]
    said = torch.cat([inputs["input_ids"][0, start:] for inputs, start in spoken])
    old, new = torch.cat(before), torch.cat(after)
    chosen = (old - new).gather(1, said[:, None])
    return Cost(
        scheme,
        size,
        language_bytes(model),
        len(said),
        float((old.argmax(-1) == new.argmax(-1)).float().mean()),
        float((old.exp() * (old - new)).sum(-1).mean()),
        float(chosen.mean()),
    )


def _scores(model: OwlForConditionalGeneration, inputs: dict[str, Any], start: int) -> Tensor:
    """The logarithms of the probabilities of each answered token."""
    return model(**inputs).logits[0, start - 1 : -1].float().log_softmax(-1)


def language_bytes(model: OwlForConditionalGeneration) -> int:
    """Bytes of the decoder and the head; what they share is counted once."""
    parts = (model.model.language_model, model.lm_head)
    tensors = {id(t): t for part in parts for t in (*part.parameters(), *part.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
