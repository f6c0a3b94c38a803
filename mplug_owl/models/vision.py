"""f_V, the vision model: a CLIP-style ViT, with or without cls, with an optional temporal branch for video.

One class covers every family: the image ViT, the same ViT with depthwise temporal convolutions between its layers (Owl
video), and the ViT without cls whose 16 x 16 position table is resampled to the grid (Owl2.1). All tokens leave the
encoder, cls included: the abstractor reads every one of them. This file knows nothing of language or of files on disk.

Shapes: F frames (images, or videos x frames), T frames of one video, N tokens, P patches, C width, H heads, K head
width, G grid side.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from mplug_owl.errors import ConfigError, RequestError


@strict
class OwlVisionConfig(PreTrainedConfig):
    model_type = "mplug_owl_vision"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    use_cls_token: bool = True
    use_post_layernorm: bool = True
    position_rows: int = 256
    """Rows of the position table of a ViT without cls; resampled to the grid. With cls: one row a token, unused."""
    temporal: bool = False
    """Adds the temporal branch of the video families."""
    initializer_range: float = 0.02
    stem_widths: list[int] | None = None
    """Widths of convolutions before the patches, each of which halves the picture. CLIP has none; a small model that
    learns to see from few pictures needs them.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.patch_size % 2 ** len(self.stem_widths or ()):
            raise ConfigError(
                f"patch_size={self.patch_size} cannot be halved {len(self.stem_widths or ())} times, once for each "
                f"of stem_widths={self.stem_widths}; expected a multiple of {2 ** len(self.stem_widths or ())}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"vision hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, the cls token included."""
        return self.grid**2 + int(self.use_cls_token)


def eager_attention(
    module: nn.Module,
    query_FHQK: Tensor,
    key_FHNK: Tensor,
    value_FHNK: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention spelled out, without the library's copies: softmax computes in float32 at least by itself, and float64
    stays float64.
    """
    groups = query_FHQK.shape[1] // key_FHNK.shape[1]
    if groups > 1:  # heads that share keys and values
        key_FHNK, value_FHNK = (x.repeat_interleave(groups, dim=1) for x in (key_FHNK, value_FHNK))
    scores_FHQN = (query_FHQK * scaling) @ key_FHNK.transpose(-1, -2)
    if attention_mask is not None:
        scores_FHQN = scores_FHQN + attention_mask
    weights_FHQN = F.dropout(scores_FHQN.softmax(-1), dropout, training=module.training)
    return (weights_FHQN @ value_FHNK).transpose(1, 2).contiguous(), weights_FHQN


class VisionAttention(nn.Module):
    is_causal = False

    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.num_heads) ** -0.5
        # Rows are grouped per head as [q k v], as published: not three blocks of width C.
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_FNC: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        qkv = self.query_key_value(x_FNC).unflatten(-1, (self.num_heads, 3, -1)).transpose(1, 2)
        query_FHNK, key_FHNK, value_FHNK = qkv.unbind(3)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out_FNHK, weights = attention(
            self,
            query_FHNK,
            key_FHNK,
            value_FHNK,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.dense(out_FNHK.flatten(2)), weights


class VisionMLP(nn.Module):
    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_FNC: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x_FNC)))


class TemporalBranch(nn.Module):
    """Adds to each patch what the same patch shows one frame earlier and later; doubles cls, as the original does."""

    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.hidden_size // 2
        self.ln = nn.LayerNorm(width, eps=1e-5)
        # The published tensors are those of Conv3d; forward uses them as what they are, two linears and three taps.
        self.down_proj = nn.Conv3d(width, inner, 1)
        self.conv = nn.Conv3d(inner, inner, (3, 1, 1), padding=(1, 0, 0), groups=inner)
        self.up_proj = nn.Conv3d(inner, width, 1)

    def forward(self, x_FNC: Tensor, num_frames: int, use_cls_token: bool) -> Tensor:
        x_BTNC = x_FNC.unflatten(0, (-1, num_frames))
        cls, patches = x_BTNC[:, :, : int(use_cls_token)], x_BTNC[:, :, int(use_cls_token) :]
        y = F.linear(self.ln(patches), self.down_proj.weight.flatten(1), self.down_proj.bias)
        # float32 here: the original drops to float16 under bfloat16, which overflows to NaN for some videos.
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        past, now, future = self.conv.weight.to(y.dtype).flatten(1).unbind(1)
        before, after = F.pad(y, (0, 0, 0, 0, 1, 0))[:, :-1], F.pad(y, (0, 0, 0, 0, 0, 1))[:, 1:]
        y = before * past + y * now + after * future + self.conv.bias.to(y.dtype)
        y = (y * torch.sigmoid(1.702 * y)).to(x_FNC.dtype)
        y = F.linear(y, self.up_proj.weight.flatten(1), self.up_proj.bias)
        return torch.cat((2 * cls, patches + y), dim=2).flatten(0, 1)


class VisionLayer(GradientCheckpointingLayer):
    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__()
        self.use_cls_token = config.use_cls_token
        self.temporal = TemporalBranch(config) if config.temporal else None
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x_FNC: Tensor, num_frames: int = 1, **kwargs: Any) -> Tensor:
        if num_frames > 1:
            x_FNC = self.temporal(x_FNC, num_frames, self.use_cls_token)
        x_FNC = x_FNC + self.self_attn(self.input_layernorm(x_FNC), **kwargs)[0]
        return x_FNC + self.mlp(self.post_attention_layernorm(x_FNC))


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution that halves the picture; its norm is over all of one picture, so batches change nothing."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(1, outputs), nn.GELU())


class VisionEmbeddings(nn.Module):
    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__()
        self.config = config
        widths = [3, *(config.stem_widths or ())]
        self.stem = nn.Sequential(*(_halving(a, b) for a, b in pairwise(widths)))
        width, patch = config.hidden_size, config.patch_size // 2 ** len(self.stem)
        self.patch_embed = nn.Conv2d(widths[-1], width, patch, stride=patch, bias=False)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.position_embedding = nn.Parameter(torch.empty(1, config.num_tokens, width))
        else:
            self.position_embedding = nn.Parameter(torch.empty(config.position_rows, width))
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def positions(self) -> Tensor:
        """The table as [N, C]; without cls it is resampled from its own square grid to the image's."""
        table = self.position_embedding
        if self.config.use_cls_token:
            return table[0]
        side, grid = round(table.shape[0] ** 0.5), self.config.grid
        if side == grid:
            return table
        square = table.to(torch.promote_types(table.dtype, torch.float32)).T.unflatten(1, (side, side))[None]
        square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
        return square[0].flatten(1).T.to(table.dtype)

    def forward(self, pixels_F3XY: Tensor) -> Tensor:
        size = self.config.image_size
        if tuple(pixels_F3XY.shape[1:]) != (3, size, size):
            raise RequestError(
                f"pixels have shape {list(pixels_F3XY.shape)}; this vision model takes "
                f"[images, 3, {size}, {size}]: prepare pictures with the processor saved beside it"
            )
        x_FNC = self.patch_embed(self.stem(pixels_F3XY)).flatten(2).transpose(1, 2)
        if self.config.use_cls_token:
            x_FNC = torch.cat((self.cls_token.expand(x_FNC.shape[0], -1, -1), x_FNC), dim=1)
        return self.pre_layernorm(x_FNC + self.positions())


class OwlVisionModel(PreTrainedModel):
    """Pictures [F, 3, X, Y] to tokens [F, N, C]; `num_frames` > 1 says that each run of so many is one video."""

    config: OwlVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": VisionLayer, "attentions": VisionAttention}

    def __init__(self, config: OwlVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_layernorm = norm if config.use_post_layernorm else None
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionEmbeddings):
            init.normal_(module.position_embedding, std=std)
            if module.config.use_cls_token:
                init.normal_(module.cls_token, std=std)
        elif isinstance(module, TemporalBranch):  # a fresh branch changes nothing but cls
            init.zeros_(module.up_proj.weight)
            init.zeros_(module.up_proj.bias)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, num_frames: int = 1, **kwargs: Any) -> BaseModelOutput:
        x_FNC = self.embeddings(pixel_values.to(self.dtype))
        for layer in self.layers:
            x_FNC = layer(x_FNC, num_frames=num_frames, **kwargs)
        if self.post_layernorm is not None:
            x_FNC = self.post_layernorm(x_FNC)
        return BaseModelOutput(last_hidden_state=x_FNC)
