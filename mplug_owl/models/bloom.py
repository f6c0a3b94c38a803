"""BLOOM as the Owl-bloomz family needs it: embeddings enter already normed, so visual rows stay out of that norm.

The library's model norms whatever embeddings it is given; the original norms text rows only and splices the visual
rows in afterwards. Here `embed_text` looks up and norms, and `forward` starts behind the norm. Parameters and names
are the library's. Attention is eager, as in the library: ALiBi is an additive bias.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import BloomConfig, BloomModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomBlock, build_alibi_tensor
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from mplug_owl.models.vision import eager_attention


class OwlBloomAttention(BloomAttention):
    """The library's weights with a softmax that keeps float64, so that batches can be held against single rows."""

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Tensor,
        layer_past: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        out, weights = eager_attention(
            self,
            query,
            key,
            value,
            alibi + attention_mask,
            self.inv_norm_factor,
            self.attention_dropout.p if self.training else 0.0,
        )
        out = torch.dropout(self.dense(out.flatten(2)), self.hidden_dropout, self.training)
        return residual + out, weights


class OwlBloomModel(BloomModel):
    config: BloomConfig
    _can_record_outputs = {"hidden_states": BloomBlock, "attentions": OwlBloomAttention}

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(config)
        for index, block in enumerate(self.h):
            block.self_attention = OwlBloomAttention(config, index)
        self.post_init()

    def embed_text(self, input_ids: Tensor) -> Tensor:
        return self.word_embeddings_layernorm(self.word_embeddings(input_ids))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """`inputs_embeds` come from `embed_text`, with visual rows put in where they belong."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_text(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        batch, length = inputs_embeds.shape[:2]
        real = attention_mask
        if real is None or real.ndim == 4:
            # ALiBi counts real keys. Without a 2-D mask all are counted; that also serves packed rows, since only
            # differences within a sample matter.
            keys = past_key_values.get_mask_sizes(length, 0)[0] if past_key_values is not None else length
            real = torch.ones(batch, keys, dtype=torch.long, device=inputs_embeds.device)
        alibi = build_alibi_tensor(real, self.num_heads, inputs_embeds.dtype)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
        layer_inputs = {
            "alibi": alibi.unflatten(0, (batch, self.num_heads)),
            "attention_mask": mask,
            "layer_past": past_key_values,
        }
        hidden_states = inputs_embeds
        for block in self.h:
            hidden_states = block(hidden_states, **layer_inputs)[0]
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values)
