"""Modality-adaptive twins of the decoders of Transformers: Mistral, Qwen2, Qwen3, SmolLM3, Gemma and Phi-3.

As in `adaptive.py`, which is Llama's: all parameters and names of the library's decoder are the text branch, and beside
each norm of a layer and each projection to keys and values stands a `visual_*` one for the rows of `visual_index`. A
twin subclasses the library's attention, layer and model; nothing is patched. What a layout has of its own is part of
the branch it belongs to: biases, the norm of keys (Qwen3), a fused projection (Phi-3), of which keys and values have a
twin and queries none.

Shapes: B batch, L row length, D width, H heads, K head width, N visual rows of the whole batch.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaModel,
    MistralConfig,
    MistralModel,
    Phi3Config,
    Phi3Model,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3Model,
)
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma.modeling_gemma import GemmaAttention, GemmaDecoderLayer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralDecoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3Attention, Phi3DecoderLayer
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as rotate_a_part
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer
from transformers.models.smollm3.modeling_smollm3 import SmolLM3Attention, SmolLM3DecoderLayer

from mplug_owl.models.adaptive import Visual, gather, two_way

NORMS = ("input_layernorm", "post_attention_layernorm")
BRANCHED = ("k_proj", "v_proj", "k_norm")
"""What of an attention becomes two, where it is there."""


def own_norm(text: nn.Module, visual: nn.Module, x_BLD: Tensor, index_N: Tensor | None) -> tuple[Tensor, Visual | None]:
    """`text` on all rows and `visual` on the visual ones, which are also returned on their own."""
    rows = gather(x_BLD, index_N)
    if rows is None:
        return text(x_BLD), None
    rows = Visual(rows.index_N, visual(rows.rows_ND))
    out = text(x_BLD)
    out.flatten(0, 1).index_copy_(0, rows.index_N, rows.rows_ND)
    return out, rows


class TwoWayAttention(nn.Module):
    """Stands in front of a library's attention; attributes and parameters are that one's."""

    rotate = staticmethod(apply_rotary_pos_emb)

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        for name in BRANCHED:
            if hasattr(self, name):
                setattr(self, f"visual_{name}", copy.deepcopy(getattr(self, name)))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def queries(self, x_BLD: Tensor) -> Tensor:
        query_BLHK = self.heads(self.q_proj(x_BLD))
        return self.q_norm(query_BLHK) if hasattr(self, "q_norm") else query_BLHK

    def keys(self, x: Tensor, branch: str = "") -> Tensor:
        key = self.heads(getattr(self, f"{branch}k_proj")(x))
        norm = getattr(self, f"{branch}k_norm", None)
        return key if norm is None else norm(key)

    def visual_keys(self, x: Tensor) -> Tensor:
        return self.keys(x, "visual_")

    def project(self, x_BLD: Tensor, visual: Visual | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, L, H, K]."""
        key_BLHK = two_way(self.keys, self.visual_keys, x_BLD, visual)
        value_BLHK = self.heads(two_way(self.v_proj, self.visual_v_proj, x_BLD, visual))
        return self.queries(x_BLD), key_BLHK, value_BLHK

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        visual: Visual | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = (part.transpose(1, 2) for part in self.project(hidden_states, visual))
        if getattr(self, "use_rope", True):  # SmolLM3 leaves it out of some layers
            query, key = self.rotate(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        # The library's own, so that a twin equals its decoder however attention is computed.
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
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
        return self.o_proj(out.flatten(2).contiguous()), weights


class TwoWayLayer(nn.Module):
    """Stands in front of a library's decoder layer."""

    attention: type[nn.Module]

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = self.attention(config, layer_idx)
        for name in NORMS:
            setattr(self, f"visual_{name}", copy.deepcopy(getattr(self, name)))

    def forward(self, hidden_states: Tensor, visual_index: Tensor | None = None, **kwargs: Any) -> Tensor:
        normed, visual = own_norm(self.input_layernorm, self.visual_input_layernorm, hidden_states, visual_index)
        hidden_states = hidden_states + self.self_attn(normed, visual=visual, **kwargs)[0]
        normed, _ = own_norm(
            self.post_attention_layernorm, self.visual_post_attention_layernorm, hidden_states, visual_index
        )
        return hidden_states + self.mlp(normed)


class TwoWayModel(nn.Module):
    """Stands in front of a library's decoder, which hands `visual_index` on to every layer."""

    takes_visual_index = True
    layer: type[nn.Module]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(self.layer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


# ---- one layout after the other ------------------------------------------------------------------


def twin(config: type, attention: type, layer: type, model: type) -> tuple[Any, Any]:
    """The configuration and the model of a twin: classes in front of the library's four, each called after its own.

    An attention may be one of ours already. The layer and its attention are found at their model, also by pickle.
    """
    name = f"Adaptive{model.__name__}"

    def in_front(of: type, *fronts: type, place: str = "", **body: Any) -> Any:
        called = f"Adaptive{of.__name__}"
        return type(called, (*fronts, of), {"__module__": __name__, "__qualname__": place or called, **body})

    own_config = strict(in_front(config, model_type=f"mplug_owl_adaptive_{config.model_type}"))
    if not issubclass(attention, TwoWayAttention):
        attention = in_front(attention, TwoWayAttention, place=f"{name}.layer.attention")
    own_layer = in_front(layer, TwoWayLayer, place=f"{name}.layer", attention=attention)
    return own_config, in_front(
        model,
        TwoWayModel,
        config_class=own_config,
        layer=own_layer,
        _no_split_modules=[own_layer.__name__],
        _can_record_outputs={"hidden_states": own_layer, "attentions": attention},
    )


class AdaptivePhi3Attention(TwoWayAttention, Phi3Attention):
    """One matrix for queries, keys and values; the last two have a second one, fused as well."""

    rotate = staticmethod(rotate_a_part)

    def __init__(self, config: Phi3Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.visual_kv_proj = nn.Linear(config.hidden_size, 2 * self.num_key_value_heads * self.head_dim, bias=False)

    def project(self, x_BLD: Tensor, visual: Visual | None) -> tuple[Tensor, Tensor, Tensor]:
        fused = self.qkv_proj(x_BLD)
        both = self.visual_kv_proj.out_features
        if visual is not None:
            fused.flatten(0, 1)[:, -both:].index_copy_(0, visual.index_N, self.visual_kv_proj(visual.rows_ND))
        query, key, value = fused.split((fused.shape[-1] - both, both // 2, both // 2), dim=-1)
        return self.heads(query), self.heads(key), self.heads(value)


AdaptiveMistralConfig, AdaptiveMistralModel = twin(MistralConfig, MistralAttention, MistralDecoderLayer, MistralModel)
AdaptiveQwen2Config, AdaptiveQwen2Model = twin(Qwen2Config, Qwen2Attention, Qwen2DecoderLayer, Qwen2Model)
AdaptiveQwen3Config, AdaptiveQwen3Model = twin(Qwen3Config, Qwen3Attention, Qwen3DecoderLayer, Qwen3Model)
AdaptiveSmolLM3Config, AdaptiveSmolLM3Model = twin(SmolLM3Config, SmolLM3Attention, SmolLM3DecoderLayer, SmolLM3Model)
AdaptiveGemmaConfig, AdaptiveGemmaModel = twin(GemmaConfig, GemmaAttention, GemmaDecoderLayer, GemmaModel)
AdaptivePhi3Config, AdaptivePhi3Model = twin(Phi3Config, AdaptivePhi3Attention, Phi3DecoderLayer, Phi3Model)

TWINS = (
    (AdaptiveMistralConfig, AdaptiveMistralModel),
    (AdaptiveQwen2Config, AdaptiveQwen2Model),
    (AdaptiveQwen3Config, AdaptiveQwen3Model),
    (AdaptiveSmolLM3Config, AdaptiveSmolLM3Model),
    (AdaptiveGemmaConfig, AdaptiveGemmaModel),
    (AdaptivePhi3Config, AdaptivePhi3Model),
)


def text_twin(name: str, text: Mapping[str, Any], shape: torch.Size) -> Tensor:
    """What the tensor `name` of a visual branch starts as: a copy of its twin in the text branch, read if it must be.

    Two branches never share memory: they go apart in training.
    """
    whole = text[name.replace("visual_kv_proj", "qkv_proj").replace("visual_", "")][...]
    return whole[whole.shape[0] - shape[0] :].clone()  # keys and values come last where queries are in the same matrix
