"""Modality-adaptive decoders (Owl2): visual rows get norms and key/value projections of their own.

A Llama decoder keeps all its parameters and names: they are the text branch. Beside them stands a visual branch,
`visual_*`. The text branch always runs on all rows; the rows named by `visual_index` are then overwritten by the
visual branch. So a batch without a visual row is the same code, decode steps cost nothing, and no step waits for the
device. The index alone decides the branch, never the attention mask. Nothing of the library is patched: plain Llama
models live in the same process untouched.

Shapes: B batch, L row length, D width, N visual rows of the whole batch (flattened B * L).
"""

from typing import Any, NamedTuple

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
)

from mplug_owl.models.vision import eager_attention


class Visual(NamedTuple):
    """The visual rows of a batch: where they stand in the flattened B * L, and their states."""

    index_N: Tensor
    rows_ND: Tensor


def gather(x_BLD: Tensor, visual_index: Tensor | None) -> Visual | None:
    if visual_index is None:
        return None
    return Visual(visual_index, x_BLD.flatten(0, 1).index_select(0, visual_index))


def two_way(text: nn.Module, visual: nn.Module, x_BLD: Tensor, rows: Visual | None) -> Tensor:
    """Apply `text` to all rows, then overwrite the visual `rows` by what `visual` makes of them.

    Rows that are there but none in number still run `visual`, so that every rank of a training run uses every
    parameter.
    """
    out = text(x_BLD)
    if rows is not None:
        # `out` is fresh, so writing into it is safe and saves a copy of the whole batch.
        out.flatten(0, 1).index_copy_(0, rows.index_N, visual(rows.rows_ND))
    return out


def two_way_norm(
    text: LlamaRMSNorm, visual: LlamaRMSNorm, x_BLD: Tensor, visual_index: Tensor | None
) -> tuple[Tensor, Visual | None]:
    """`two_way` for RMS norms, which differ in their weight alone: rows are normalised once.

    Returns the visual rows beside the whole, for whoever projects them next.
    """
    if visual_index is None:
        return text(x_BLD), None
    x = x_BLD.float()
    x = (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + text.variance_epsilon)).to(x_BLD.dtype)
    out, rows_ND = text.weight * x, gather(x, visual_index).rows_ND * visual.weight
    out.flatten(0, 1).index_copy_(0, visual_index, rows_ND)
    return out, Visual(visual_index, rows_ND)


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
        visual: Visual | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query = heads(self.q_proj(hidden_states))
        key = heads(two_way(self.k_proj, self.visual_k_proj, hidden_states, visual))
        value = heads(two_way(self.v_proj, self.visual_v_proj, hidden_states, visual))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
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
        # Not LlamaDecoderLayer's own __init__: it would build a plain attention only to throw it away.
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = AdaptiveLlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(self, name, LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps))
            setattr(self, f"visual_{name}", LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps))

    def forward(self, hidden_states: Tensor, visual_index: Tensor | None = None, **kwargs: Any) -> Tensor:
        normed, visual = two_way_norm(self.input_layernorm, self.visual_input_layernorm, hidden_states, visual_index)
        hidden_states = hidden_states + self.self_attn(normed, visual=visual, **kwargs)[0]
        normed, _ = two_way_norm(
            self.post_attention_layernorm, self.visual_post_attention_layernorm, hidden_states, visual_index
        )
        return hidden_states + self.mlp(normed)


class AdaptiveLlamaModel(LlamaModel):
    """`LlamaModel` whose forward also takes `visual_index`, which it hands to every layer."""

    config: AdaptiveLlamaConfig
    takes_visual_index = True
    _no_split_modules = ["AdaptiveLlamaDecoderLayer"]
    _can_record_outputs = {"hidden_states": AdaptiveLlamaDecoderLayer, "attentions": AdaptiveLlamaAttention}

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
