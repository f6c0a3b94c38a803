"""One decode step: the next position of every running conversation, in one pass over the decoder.

It computes what the decoders of `models` compute for a single text position, without what their general layers cost
around the kernels: half of a step of a small model otherwise. On a CPU, large matrices are kept in the blocked layout
of oneDNN, which multiplies few rows faster. How rows write to the cache and read it is the business of `attention.py`.

A decoder of another kind has no step of its own (`step_of` gives None): its own forward serves as well.

Shapes: B rows, D width, H heads, G queries a head of keys, K head width, L keys.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel, MistralModel, Qwen2Model, Qwen3Model
from transformers.models.bloom.modeling_bloom import bloom_gelu_forward, build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mplug_owl.engine.attention import Fixed, Ragged, Reader, Rows
from mplug_owl.engine.cache import SlotCache
from mplug_owl.engine.quantize import Int4Linear
from mplug_owl.models.adaptive import AdaptiveLlamaModel
from mplug_owl.models.bloom import OwlBloomModel
from mplug_owl.models.qwen1 import Qwen1Model
from mplug_owl.models.twins import AdaptiveMistralModel, AdaptiveQwen2Model, AdaptiveQwen3Model

Map = Callable[[Tensor], Tensor]
# Smaller matrices gain nothing by a layout of their own, measured on AVX-512 cores.
_WORTH_PACKING = {torch.bfloat16: 2**14, torch.float32: 2**19}
_ROWS_PACKED_FOR = 16
# Decoders of the same layout: Mistral, and Qwen2 with its biases, compute what Llama computes.
_LLAMAS = (LlamaModel, AdaptiveLlamaModel, MistralModel, AdaptiveMistralModel, Qwen2Model, AdaptiveQwen2Model)


class Block(NamedTuple):
    """A layer of a decoder, as far as a text position needs it."""

    norm: Map
    project: Callable[[Tensor], tuple[Tensor, ...]]
    """[B, D] to queries, keys, values, each [B, H, K]."""
    out: Map
    mlp_norm: Map
    mlp: Map


class Packed:
    """A linear layer whose weight was copied into the layout that oneDNN wants."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS_PACKED_FOR)
        self.bias = linear.bias
        self.multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        made: Tensor = self.multiply(x, self.weight, self.bias, "none", [], "")
        return made


def worth_packing(linear: nn.Module) -> bool:
    # Not a subclass: whatever it computes besides is not in its weight.
    if type(linear) is not nn.Linear or linear.weight.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if linear.weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    least = _WORTH_PACKING.get(linear.weight.dtype)
    return least is not None and linear.weight.numel() >= least


def packed(linear: nn.Module) -> Map:
    return Packed(linear) if worth_packing(linear) else direct(linear)  # type: ignore[arg-type]


def direct(linear: nn.Module) -> Map:
    return linear.product() if isinstance(linear, Int4Linear) else linear


def _rms(norm: LlamaRMSNorm) -> Map:
    return partial(F.rms_norm, normalized_shape=norm.weight.shape, weight=norm.weight, eps=norm.variance_epsilon)


class Step:
    """The step of Llama and its like, and of their modality-adaptive twins, whose text branch it is: decode steps hold
    no visual rows.
    """

    def __init__(self, decoder: Any, store: SlotCache, matrix: Callable[[nn.Module], Map]) -> None:
        self.decoder, self.store, self.reader = decoder, store, Reader(store)
        self.heads = store.pairs[0].shape[2]
        self.blocks = [self.block(layer, matrix) for layer in self.layers()]
        self.norm, self.scale = self.last_norm(), self.attention_scale()

    def layers(self) -> Sequence[Any]:
        layers: Sequence[Any] = self.decoder.layers
        return layers

    def last_norm(self) -> Map:
        return _rms(self.decoder.norm)

    def attention_scale(self) -> float:
        return float(self.decoder.layers[0].self_attn.scaling)

    def block(self, layer: Any, matrix: Callable[[nn.Module], Map]) -> Block:
        attention, mlp = layer.self_attn, layer.mlp
        parts = [matrix(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        gate, up, down = matrix(mlp.gate_proj), matrix(mlp.up_proj), matrix(mlp.down_proj)
        return Block(
            _rms(layer.input_layernorm),
            lambda x: tuple(part(x).view(len(x), -1, attention.head_dim) for part in parts),
            matrix(attention.o_proj),
            _rms(layer.post_attention_layernorm),
            lambda x: down(mlp.act_fn(gate(x)) * up(x)),
        )

    def rotation(self, x_BD: Tensor, places_B: Tensor, alpha_B: Tensor | None) -> tuple[Tensor, Tensor] | None:
        cos_B1K, sin_B1K = self.decoder.rotary_emb(x_BD, places_B[:, None])
        return cos_B1K, sin_B1K

    def query_scale(self, x_BD: Tensor, places_B: Tensor) -> Tensor | None:
        return None

    def bias(self, keys: int, dtype: torch.dtype) -> Tensor | None:
        """[H, 1, L] to be added to the scores of keys 0 .. L - 1."""
        return None

    def __call__(self, x_BD: Tensor, first: int, lengths: Sequence[int], alphas: Sequence[float | None] = ()) -> Tensor:
        """Put `x_BD` at position `lengths[b]` of slot `first + b`; returns [B, D] in front of the head."""
        rows = Ragged(self.reader, first, lengths, x_BD.device, self.bias, self.scale)
        return self.through(x_BD, rows, stretches(alphas, x_BD.device))

    def fixed(self, x_BD: Tensor, lengths_B: Tensor, alpha_B: Tensor | None, keys: int, bias: Tensor | None) -> Tensor:
        """The same at position `lengths_B[b]` of slot b, by a computation that shapes alone decide; see `Fixed`."""
        return self.through(x_BD, Fixed(self.store, lengths_B, keys, bias, self.scale), alpha_B)

    def through(self, x_BD: Tensor, rows: Rows, alpha_B: Tensor | None) -> Tensor:
        """All layers and the last norm."""
        rotation = turn(self.rotation(x_BD, rows.places_B, alpha_B))
        query_scale = self.query_scale(x_BD, rows.places_B)
        for layer, block in enumerate(self.blocks):
            query_BHK, key_BHK, value_BHK = block.project(block.norm(x_BD))
            if rotation is not None:
                query_BHK, key_BHK = rotated(query_BHK, *rotation), rotated(key_BHK, *rotation)
            if query_scale is not None:
                query_BHK = query_BHK * query_scale
            rows.put(layer, key_BHK, value_BHK)
            # Queries that share a head of keys stand side by side, as if they were several positions.
            found_BHGK = rows.attend(layer, query_BHK.view(len(x_BD), self.heads, -1, query_BHK.shape[-1]))
            x_BD = x_BD + block.out(found_BHGK.flatten(1).to(x_BD.dtype))
            x_BD = x_BD + block.mlp(block.mlp_norm(x_BD))
        return self.norm(x_BD)


def stretches(alphas: Sequence[float | None], device: torch.device) -> Tensor | None:
    """The rotary stretch of each row, where the decoder has such a thing."""
    if not alphas or alphas[0] is None:
        return None
    return torch.tensor(alphas, dtype=torch.float64, device=device)


def turn(rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """The sines with the signs that `rotated` wants."""
    if rotation is None:
        return None
    cos, sin = rotation
    low, high = sin.chunk(2, -1)
    return cos, torch.cat((-low, high), -1)


def rotated(x_BHK: Tensor, cos_B1K: Tensor, sin_B1K: Tensor) -> Tensor:
    """Rotary positions; halves of a head belong together."""
    return torch.addcmul(x_BHK * cos_B1K, x_BHK.roll(x_BHK.shape[-1] // 2, -1), sin_B1K)


class Qwen3Step(Step):
    """Qwen3: queries and keys are normed head by head."""

    def block(self, layer: Any, matrix: Callable[[nn.Module], Map]) -> Block:
        block, attention = super().block(layer, matrix), layer.self_attn
        query_norm, key_norm = _rms(attention.q_norm), _rms(attention.k_norm)

        def project(x_BD: Tensor) -> tuple[Tensor, ...]:
            query_BHK, key_BHK, value_BHK = block.project(x_BD)
            return query_norm(query_BHK), key_norm(key_BHK), value_BHK

        return block._replace(project=project)


class QwenStep(Step):
    """Owl2.1: one matrix for queries, keys and values; rotary stretch by slot; queries scaled by their position."""

    def last_norm(self) -> Map:
        return _rms(self.decoder.ln_f)

    def attention_scale(self) -> float:
        return float(self.decoder.layers[0].attn.scaling)

    def block(self, layer: Any, matrix: Callable[[nn.Module], Map]) -> Block:
        fused, up, gate = matrix(layer.attn.c_attn), matrix(layer.mlp.w1), matrix(layer.mlp.w2)
        down = matrix(layer.mlp.c_proj)
        return Block(
            _rms(layer.ln_1),
            lambda x: fused(x).view(len(x), 3, self.heads, -1).unbind(1),
            matrix(layer.attn.c_proj),
            _rms(layer.ln_2),
            lambda x: down(up(x) * F.silu(gate(x))),
        )

    def rotation(self, x_BD: Tensor, places_B: Tensor, alpha_B: Tensor | None) -> tuple[Tensor, Tensor] | None:
        cos_B1K, sin_B1K = self.decoder.rotary(places_B[:, None], alpha_B, x_BD.dtype)
        return cos_B1K, sin_B1K

    def query_scale(self, x_BD: Tensor, places_B: Tensor) -> Tensor | None:
        scale: Tensor | None = self.decoder.query_scale(places_B[:, None], x_BD.dtype)
        return None if scale is None else scale[..., None]


class BloomStep(Step):
    """Owl-bloomz: ALiBi instead of rotary positions, biases everywhere, queries, keys and values mixed head by head."""

    def layers(self) -> Sequence[Any]:
        layers: Sequence[Any] = self.decoder.h
        return layers

    def last_norm(self) -> Map:
        norm: Map = self.decoder.ln_f
        return norm

    def attention_scale(self) -> float:
        return float(self.decoder.h[0].self_attention.inv_norm_factor)

    def block(self, layer: Any, matrix: Callable[[nn.Module], Map]) -> Block:
        attention, mlp = layer.self_attention, layer.mlp
        fused, inner, outer = matrix(attention.query_key_value), matrix(mlp.dense_h_to_4h), matrix(mlp.dense_4h_to_h)
        return Block(
            layer.input_layernorm,
            lambda x: fused(x).view(len(x), self.heads, 3, -1).unbind(2),
            matrix(attention.dense),
            layer.post_attention_layernorm,
            lambda x: outer(bloom_gelu_forward(inner(x))),
        )

    def rotation(self, x_BD: Tensor, places_B: Tensor, alpha_B: Tensor | None) -> tuple[Tensor, Tensor] | None:
        return None

    def bias(self, keys: int, dtype: torch.dtype) -> Tensor | None:
        counted = torch.ones(1, keys, dtype=torch.long, device=self.store.pairs[0].device)
        return build_alibi_tensor(counted, self.heads, dtype)


def step_of(decoder: nn.Module, store: SlotCache, matrix: Callable[[nn.Module], Map]) -> Step | None:
    """The step of a decoder whose kind is known; `matrix` says how its linear layers are to multiply."""
    if type(decoder) in _LLAMAS:
        return Step(decoder, store, matrix)
    if type(decoder) in (Qwen3Model, AdaptiveQwen3Model):
        return Qwen3Step(decoder, store, matrix)
    if type(decoder) is Qwen1Model:
        return QwenStep(decoder, store, matrix)
    if type(decoder) is OwlBloomModel and not decoder.config.apply_residual_connection_post_layernorm:
        return BloomStep(decoder, store, matrix)
    return None
