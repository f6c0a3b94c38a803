"""The Qwen-1 decoder that Owl2.1 needs and Transformers 5 no longer has, with its modality-adaptive attention.

Two things set it apart from Llama, and only outside training: dynamic NTK (a prompt longer than `seq_length` stretches
the rotary base by a factor alpha that stays fixed while the answer is written) and log-n (queries beyond `seq_length`
are scaled by the logarithm of their position). Modality adaptation splits the fused q, k, v projection alone.

Shapes: B batch, L row length, D width, H heads, K head width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from mplug_owl.models.adaptive import gather, two_way
from mplug_owl.models.vision import eager_attention


@strict
class Qwen1Config(PreTrainedConfig):
    model_type = "mplug_owl_qwen1"

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 11008
    """The real width of each branch of the MLP: half of what a Qwen-1 config.json says."""
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float | int = 10000.0
    max_position_embeddings: int = 8192
    seq_length: int = 2048
    """Length the model was trained at: beyond it dynamic NTK and log-n set in."""
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    linear_bias: bool = False
    """Bias of every linear layer but c_attn, which always has one."""
    adaptive: bool = True
    """A second c_attn for visual rows."""
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads


class Qwen1Attention(nn.Module):
    is_causal = True

    def __init__(self, config: Qwen1Config, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.scaling = config.head_dim**-0.5
        width = config.num_attention_heads * config.head_dim
        self.c_attn = nn.Linear(config.hidden_size, 3 * width)
        self.visual_c_attn = nn.Linear(config.hidden_size, 3 * width) if config.adaptive else None
        self.c_proj = nn.Linear(width, config.hidden_size, bias=config.linear_bias)

    def forward(
        self,
        x_BLD: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        query_scale: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        visual_index: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        fused = two_way(self.c_attn, self.visual_c_attn, x_BLD, gather(x_BLD, visual_index))
        qkv_BL3HK = fused.unflatten(-1, (3, -1, self.config.head_dim))
        query_BHLK, key_BHLK, value_BHLK = qkv_BL3HK.transpose(1, 3).unbind(2)
        query_BHLK, key_BHLK = apply_rotary_pos_emb(query_BHLK, key_BHLK, *position_embeddings)
        if query_scale is not None:
            query_BHLK = query_BHLK * query_scale[:, None, :, None]
        if past_key_values is not None:
            key_BHLK, value_BHLK = past_key_values.update(key_BHLK, value_BHLK, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out_BLHK, weights = attention(
            self,
            query_BHLK,
            key_BHLK,
            value_BHLK,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.c_proj(out_BLHK.flatten(2)), weights


class Qwen1MLP(nn.Module):
    def __init__(self, config: Qwen1Config) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.linear_bias
        self.w1 = nn.Linear(width, inner, bias=bias)
        self.w2 = nn.Linear(width, inner, bias=bias)  # the gate, despite its place
        self.c_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.c_proj(self.w1(x_BLD) * F.silu(self.w2(x_BLD)))


class Qwen1Layer(GradientCheckpointingLayer):
    def __init__(self, config: Qwen1Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = Qwen1Attention(config, layer_idx)
        self.ln_2 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = Qwen1MLP(config)

    def forward(self, x_BLD: Tensor, **kwargs: Any) -> Tensor:
        x_BLD = x_BLD + self.attn(self.ln_1(x_BLD), **kwargs)[0]
        return x_BLD + self.mlp(self.ln_2(x_BLD))


class Qwen1Model(PreTrainedModel):
    """Decoder without head. `ntk_alpha` [B] fixes the rotary stretch; left out, it follows the first call on a
    cache.
    """

    config: Qwen1Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen1Layer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": Qwen1Layer, "attentions": Qwen1Attention}

    def __init__(self, config: Qwen1Config) -> None:
        super().__init__(config)
        self.takes_visual_index = config.adaptive
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(Qwen1Layer(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def ntk_alpha(self, length_B: Tensor) -> Tensor:
        """The stretch of the rotary base for prompts of so many real positions; 1 up to `seq_length`."""
        if self.training or not self.config.use_dynamic_ntk:
            return torch.ones_like(length_B, dtype=torch.float64)
        ratio = length_B.double() / self.config.seq_length
        return (2 ** torch.ceil(torch.log2(ratio) + 1) - 1).clamp(min=1)

    def rotary(self, position_ids: Tensor, alpha_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        width = self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=position_ids.device) / width
        base_B = self.config.rope_theta * alpha_B ** (width / (width - 2))
        frequency_BK = 1.0 / base_B.float()[:, None] ** exponents
        angles = position_ids[..., None].float() * frequency_BK[:, None]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def query_scale(self, position_ids: Tensor, dtype: torch.dtype) -> Tensor | None:
        """log-n: log of the 1-based position to base `seq_length`, never under 1."""
        if self.training or not self.config.use_logn_attn:
            return None
        # Filled where it is used: a number brought from the host would end a recorded decode step.
        length = torch.full((), float(self.config.seq_length), device=position_ids.device)
        return (torch.log(position_ids.float() + 1) / torch.log(length)).clamp(min=1).to(dtype)

    def settle_alpha(self, position_ids: Tensor, past_key_values: Cache | None) -> Tensor:
        """Alpha of this call: that of the keys already in the cache, or of the prompt that opens it."""
        known = getattr(past_key_values, "ntk_alpha", None)
        if known is not None and past_key_values.get_seq_length() > 0:
            return known
        alpha_B = self.ntk_alpha(position_ids.max(dim=-1).values + 1)
        if past_key_values is not None:
            past_key_values.ntk_alpha = alpha_B
        return alpha_B

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        visual_index: Tensor | None = None,
        ntk_alpha: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + past
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if ntk_alpha is None:
            ntk_alpha = self.settle_alpha(position_ids, past_key_values)
        layer_inputs = {
            "position_embeddings": self.rotary(position_ids, ntk_alpha, inputs_embeds.dtype),
            "query_scale": self.query_scale(position_ids, inputs_embeds.dtype),
            "attention_mask": mask,
            "past_key_values": past_key_values,
            "visual_index": visual_index,
        }
        x_BLD = inputs_embeds
        for layer in self.layers:
            x_BLD = layer(x_BLD, **layer_inputs, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(x_BLD), past_key_values=past_key_values)
