"""Modality-adaptive decoders (Owl2): visual rows get norms and key/value projections of their own.

A Llama decoder keeps all its parameters and names: they are the text branch. Beside them stands a
visual branch, `visual_*`. The text branch always runs on all rows; the rows named by `visual_index`
are then overwritten by the visual branch. So a batch without a visual row is the same code, decode
steps cost nothing, and no step waits for the device. The index alone decides the branch, never the
attention mask. Nothing of the library is patched: plain Llama models live in the same process
untouched.

Shapes: B batch, L row length, D width, N visual rows of the whole batch (flattened B * L).
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


def two_way(
    text: nn.Module, visual: nn.Module, x_BLD: Tensor, visual_index: Tensor | None
) -> Tensor:
    """Apply `text` to all rows, then `visual` to those of `visual_index` (N positions in the
    flattened B * L).

    An empty index still runs `visual`, on zero rows, so that every rank of a training run uses
    every parameter.
    """
    out = text(x_BLD)
    if visual_index is None:
        return out
    rows_ND = x_BLD.flatten(0, 1).index_select(0, visual_index)
    # `out` is fresh, so writing into it is safe and saves a copy of the whole batch.
    out.flatten(0, 1).index_copy_(0, visual_index, visual(rows_ND))
    return out


def two_way_norm(
    text: LlamaRMSNorm, visual: LlamaRMSNorm, x_BLD: Tensor, visual_index: Tensor | None
) -> Tensor:
    """`two_way` for RMS norms: they differ in their weight alone, so rows are normalised once."""
    if visual_index is None:
        return text(x_BLD)
    x = x_BLD.float()
    x = (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + text.variance_epsilon)).to(x_BLD.dtype)
    out = text.weight * x
    rows = x.flatten(0, 1).index_select(0, visual_index)
    out.flatten(0, 1).index_copy_(0, visual_index, visual.weight * rows)
    return out


@strict
class AdaptiveLlamaConfig(LlamaConfig):
    model_type = "mplug_owl_adaptive_llama"


class AdaptiveLlamaAttention(LlamaAttention):
    def __init__(self, config: AdaptiveLlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        width, bias = config.num_key_value_heads * self.head_dim, config.attention_bias
        self.visual_k_proj = nn.Linear(config.hidden_size, width, bias=bias)
        self.visual_v_proj = nn.Linear(config.hidden_size, width, bias=bias)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        visual_index: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query = heads(self.q_proj(hidden_states))
        key = heads(two_way(self.k_proj, self.visual_k_proj, hidden_states, visual_index))
        value = heads(two_way(self.v_proj, self.visual_v_proj, hidden_states, visual_index))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(out.flatten(2)), weights


class AdaptiveLlamaDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: AdaptiveLlamaConfig, layer_idx: int) -> None:
        # Not LlamaDecoderLayer's own __init__: it would build a plain attention only to throw it
        # away.
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = AdaptiveLlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(self, name, LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps))
            setattr(
                self, f"visual_{name}", LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            )

    def forward(
        self, hidden_states: Tensor, visual_index: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        normed = two_way_norm(
            self.input_layernorm, self.visual_input_layernorm, hidden_states, visual_index
        )
        hidden_states = (
            hidden_states + self.self_attn(normed, visual_index=visual_index, **kwargs)[0]
        )
        normed = two_way_norm(
            self.post_attention_layernorm,
            self.visual_post_attention_layernorm,
            hidden_states,
            visual_index,
        )
        return hidden_states + self.mlp(normed)


class AdaptiveLlamaModel(LlamaModel):
    """`LlamaModel` whose forward also takes `visual_index`, which it hands to every layer."""

    config: AdaptiveLlamaConfig
    takes_visual_index = True
    _no_split_modules = ["AdaptiveLlamaDecoderLayer"]
    _can_record_outputs = {
        "hidden_states": AdaptiveLlamaDecoderLayer,
        "attentions": AdaptiveLlamaAttention,
    }

    def __init__(self, config: AdaptiveLlamaConfig) -> None:
        super(LlamaModel, self).__init__(config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            AdaptiveLlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()
