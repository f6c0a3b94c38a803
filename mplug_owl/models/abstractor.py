"""f_K, the visual abstractor: learned queries that summarise an image or a whole video into Q + 1 positions.

One class covers every family: plain (Owl), with fixed position tables on queries and keys (Owl2, Owl2.1), and with a
second set of queries for time (Owl video). It receives the tokens of the vision model and returns positions of the
language model's width; where they go is not its business.

Shapes: B images or videos, N vision tokens (of all frames), Q queries, M = Q + N keys, C vision width, H heads, K head
width, D language width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from mplug_owl.errors import ConfigError
from mplug_owl.models.vision import eager_attention

QUERY_NORM_EPS = 1e-5  # norm1, normk and norm2 ignore the configured eps in every published model


@strict
class OwlAbstractorConfig(PreTrainedConfig):
    model_type = "mplug_owl_abstractor"

    hidden_size: int = 1024
    output_size: int = 4096
    num_queries: int = 64
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 2816
    """The real width of the feed-forward layers."""
    layer_norm_eps: float = 1e-6
    """Used by the norm inside the feed-forward layers only."""
    attention_dropout: float = 0.0
    position_grid: int | None = None
    """Side of the patch grid if queries and keys carry position tables (Owl2), None if they do not (Owl)."""
    use_cls_token: bool = True
    temporal: bool = False
    """Adds the second set of queries that the video families use for more than one frame."""
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"abstractor hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.position_grid is not None and self.hidden_size % 4:
            raise ConfigError(f"position tables need a width divisible by 4, not hidden_size={self.hidden_size}")

    @property
    def input_size(self) -> int:
        return self.hidden_size

    @property
    def positions(self) -> int:
        """Positions of one image or video in the language model: the queries and the end of image."""
        return self.num_queries + 1

    @property
    def summary(self) -> str:
        return f"{self.num_hidden_layers} layers, {self.num_queries} queries"


def sincos_rows(positions: Tensor, width: int) -> Tensor:
    """[len(positions), width] rows of sin then cos, at the usual geometric frequencies."""
    exponents = torch.arange(width // 2, dtype=torch.float32, device=positions.device) / (width / 2)
    angles = positions[:, None].float() / 10000**exponents
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def compute_tables(config: OwlAbstractorConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Position rows for the queries [Q, C] and for the patches [N, C] of a config with a position grid.

    A patch has the sines of its column in the first half and those of its row in the second; cls has zeros.
    """
    side, width = config.position_grid, config.hidden_size
    queries = sincos_rows(torch.arange(config.num_queries, device=device), width)
    line = sincos_rows(torch.arange(side, device=device), width // 2)
    keys = torch.cat((line.repeat(side, 1), line.repeat_interleave(side, 0)), dim=1)
    return queries, F.pad(keys, (0, 0, int(config.use_cls_token), 0))


class AbstractorAttention(nn.Module):
    is_causal = False
    q_pos_embed: Tensor
    k_pos_embed: Tensor

    def __init__(self, config: OwlAbstractorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        if config.position_grid is not None:
            # Computed, never trained, yet part of the published layout: kept as buffers, one pair a layer.
            keys = config.position_grid**2 + int(config.use_cls_token)
            self.register_buffer("q_pos_embed", torch.empty(config.num_queries, width))
            self.register_buffer("k_pos_embed", torch.empty(keys, width))

    def forward(self, queries_BQC: Tensor, image_BNC: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        memory_BMC = torch.cat((queries_BQC, image_BNC), dim=1)
        query_in, key_in = queries_BQC, memory_BMC
        if self.config.position_grid is not None:  # positions steer where to look, not what is read
            q_table, k_table = self._tables(queries_BQC.shape[1], image_BNC.shape[1])
            query_in = queries_BQC + q_table.to(memory_BMC.dtype)
            key_in = memory_BMC + torch.cat((q_table, k_table)).to(memory_BMC.dtype)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out_BQHK, weights = attention(
            self,
            heads(self.query(query_in)),
            heads(self.key(key_in)),
            heads(self.value(memory_BMC)),
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(out_BQHK.flatten(2)), weights

    def _tables(self, queries: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Position rows for that many queries and image tokens.

        The temporal queries have those of the others. No published family has both tables and videos seen as a whole:
        here the patches of a frame carry its number too.
        """
        q_table, k_table = self.q_pos_embed, self.k_pos_embed
        frames = tokens // len(k_table)
        if frames > 1:
            times = sincos_rows(torch.arange(frames, device=k_table.device), k_table.shape[1])
            k_table = (k_table + times[:, None].to(k_table.dtype)).flatten(0, 1)
        return q_table.repeat(queries // len(q_table), 1), k_table


class AbstractorMLP(nn.Module):
    """SwiGLU with a norm before the way down."""

    def __init__(self, config: OwlAbstractorConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.w1 = nn.Linear(width, inner)
        self.w2 = nn.Linear(inner, width)
        self.w3 = nn.Linear(width, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps=config.layer_norm_eps)

    def forward(self, x_BQC: Tensor) -> Tensor:
        return self.w2(self.ffn_ln(F.silu(self.w1(x_BQC)) * self.w3(x_BQC)))


class AbstractorLayer(GradientCheckpointingLayer):
    def __init__(self, config: OwlAbstractorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=QUERY_NORM_EPS)
        self.normk = nn.LayerNorm(config.hidden_size, eps=QUERY_NORM_EPS)
        self.attention = AbstractorAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=QUERY_NORM_EPS)
        self.mlp = AbstractorMLP(config)

    def forward(self, queries_BQC: Tensor, image_BNC: Tensor, **kwargs: Any) -> Tensor:
        queries_BQC = self.norm1(queries_BQC)  # the residual starts from the normed queries, as published
        out = queries_BQC + self.attention(queries_BQC, self.normk(image_BNC), **kwargs)[0]
        return out + self.mlp(self.norm2(out))


class OwlAbstractor(PreTrainedModel):
    """Vision tokens [B, N, C] to language positions [B, Q + 1, D], the last of them the learned end of image."""

    config: OwlAbstractorConfig
    main_input_name = "image_tokens"
    supports_gradient_checkpointing = True
    _no_split_modules = ["AbstractorLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": AbstractorLayer, "attentions": AbstractorAttention}

    def __init__(self, config: OwlAbstractorConfig) -> None:
        super().__init__(config)
        width, queries = config.hidden_size, config.num_queries
        self.query_tokens = nn.Parameter(torch.empty(1, queries, width))
        self.temporal_query_tokens = nn.Parameter(torch.empty(1, queries, width)) if config.temporal else None
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(config.num_hidden_layers))
        self.visual_fc = nn.Linear(width, config.output_size)
        self.temporal_visual_fc = nn.Linear(width, config.output_size) if config.temporal else None
        self.vit_eos = nn.Parameter(torch.empty(1, 1, config.output_size))
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AbstractorAttention) and module.config.position_grid is not None:
            queries, keys = compute_tables(module.config, module.q_pos_embed.device)
            init.copy_(module.q_pos_embed, queries)
            init.copy_(module.k_pos_embed, keys)
        elif isinstance(module, OwlAbstractor):
            std = self.config.initializer_range
            init.normal_(module.query_tokens, std=std)
            init.normal_(module.vit_eos, std=std)
            if module.config.temporal:
                init.normal_(module.temporal_query_tokens, std=std)
                init.zeros_(module.temporal_visual_fc.weight)  # a fresh temporal head adds nothing
                init.zeros_(module.temporal_visual_fc.bias)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, image_tokens: Tensor, is_video: bool = False, **kwargs: Any) -> BaseModelOutput:
        """Summarise `image_tokens`; `is_video` (more than one frame) brings in the temporal queries."""
        queries = self.query_tokens
        if is_video:
            queries = torch.cat((queries, self.temporal_query_tokens), dim=1)
        x_BQC = queries.expand(image_tokens.shape[0], -1, -1)
        for layer in self.layers:
            x_BQC = layer(x_BQC, image_tokens, **kwargs)
        count = self.config.num_queries
        out_BQD = self.visual_fc(x_BQC[:, :count])
        if is_video:
            out_BQD = out_BQD + self.temporal_visual_fc(x_BQC[:, count:])
        eos = self.vit_eos.expand(out_BQD.shape[0], -1, -1)
        return BaseModelOutput(last_hidden_state=torch.cat((out_BQD, eos), dim=1))
