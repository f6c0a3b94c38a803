"""The other connectors between f_V and f_L: linear and mlp (LLaVA), q-former (BLIP-2, MiniGPT-4), resampler (Flamingo).

Each takes the place of the abstractor: tokens of the vision model in, positions of the language model out. Projections
keep every token; the others summarise them with learned queries. None of them adds an end of image or sees time: a
video is a row of pictures. How large one is made for a vision model and a decoder is not known here.

Shapes: B images, N vision tokens, Q queries, M keys, V width of the vision tokens, C width inside, H heads, K head
width, D language width.
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

from mplug_owl.errors import ConfigError
from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig
from mplug_owl.models.vision import eager_attention

# ---- what all of them share ----------------------------------------------------------------------


class OwlConnector(PreTrainedModel):
    main_input_name = "image_tokens"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class ConnectorAttention(nn.Module):
    """Attention of C wide queries over keys of any width, in front of whatever norm its layer has."""

    is_causal = False

    def __init__(self, config: PreTrainedConfig, key_width: int, *, bias: bool) -> None:
        super().__init__()
        self.config, self.num_heads = config, config.num_attention_heads
        width = config.hidden_size
        self.scaling = (width // self.num_heads) ** -0.5
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(key_width, width, bias=bias)
        self.value = nn.Linear(key_width, width, bias=bias)
        self.dense = nn.Linear(width, width, bias=bias)

    def forward(self, queries_BQC: Tensor, memory_BM: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        out_BQHK, weights = attention(
            self,
            heads(self.query(queries_BQC)),
            heads(self.key(memory_BM)),
            heads(self.value(memory_BM)),
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.dense(out_BQHK.flatten(2)), weights


def check_heads(config: PreTrainedConfig) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"connector hidden_size={config.hidden_size} is not a multiple of "
            f"num_attention_heads={config.num_attention_heads}"
        )


# ---- linear and mlp ------------------------------------------------------------------------------


@strict
class OwlProjectorConfig(PreTrainedConfig):
    model_type = "mplug_owl_projector"

    input_size: int = 1024
    output_size: int = 4096
    num_tokens: int = 256
    """Tokens of one picture; all of them are kept."""
    num_hidden_layers: int = 1
    """Linear layers: 1 is LLaVA's first connector, 2 with an activation between them that of LLaVA-1.5."""
    hidden_act: str = "gelu"
    bias: bool = True
    initializer_range: float = 0.02

    @property
    def positions(self) -> int:
        return self.num_tokens

    @property
    def summary(self) -> str:
        return "linear" if self.num_hidden_layers == 1 else f"mlp of {self.num_hidden_layers} layers"


class OwlProjector(OwlConnector):
    """Vision tokens [B, N, V] to as many positions [B, N, D], each on its own."""

    config: OwlProjectorConfig

    def __init__(self, config: OwlProjectorConfig) -> None:
        super().__init__(config)
        widths = [config.input_size, *[config.output_size] * config.num_hidden_layers]
        self.layers = nn.ModuleList(nn.Linear(wide, other, bias=config.bias) for wide, other in pairwise(widths))
        self.activation = ACT2FN[config.hidden_act]
        self.post_init()

    def forward(self, image_tokens: Tensor, **kwargs: Any) -> BaseModelOutput:
        x_BN = self.layers[0](image_tokens)
        for layer in self.layers[1:]:
            x_BN = layer(self.activation(x_BN))
        return BaseModelOutput(last_hidden_state=x_BN)


# ---- q-former ------------------------------------------------------------------------------------


@strict
class OwlQFormerConfig(PreTrainedConfig):
    model_type = "mplug_owl_qformer"

    input_size: int = 1408
    hidden_size: int = 768
    output_size: int = 4096
    num_queries: int = 32
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    """Every so many layers, from the first on, look at the picture."""
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_heads(self)

    @property
    def positions(self) -> int:
        return self.num_queries

    @property
    def summary(self) -> str:
        return f"q-former of {self.num_hidden_layers} layers, {self.num_queries} queries"


class QFormerPart(nn.Module):
    """What every part of a layer ends with, as in BERT: dropout, the residual, and a norm over both."""

    def __init__(self, config: OwlQFormerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout

    def close(self, x_BQC: Tensor, residual_BQC: Tensor) -> Tensor:
        return self.norm(F.dropout(x_BQC, self.dropout, self.training) + residual_BQC)


class QFormerLook(QFormerPart):
    """Attention of the queries, over each other or over the picture."""

    def __init__(self, config: OwlQFormerConfig, key_width: int) -> None:
        super().__init__(config)
        self.attention = ConnectorAttention(config, key_width, bias=True)

    def forward(self, queries_BQC: Tensor, memory_BM: Tensor, **kwargs: Any) -> Tensor:
        return self.close(self.attention(queries_BQC, memory_BM, **kwargs)[0], queries_BQC)


class QFormerMLP(QFormerPart):
    def __init__(self, config: OwlQFormerConfig) -> None:
        super().__init__(config)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x_BQC: Tensor) -> Tensor:
        return self.close(self.fc2(self.activation(self.fc1(x_BQC))), x_BQC)


class QFormerLayer(GradientCheckpointingLayer):
    def __init__(self, config: OwlQFormerConfig, layer_idx: int) -> None:
        super().__init__()
        self.itself = QFormerLook(config, config.hidden_size)
        looks = layer_idx % config.cross_attention_frequency == 0
        self.picture = QFormerLook(config, config.input_size) if looks else None
        self.mlp = QFormerMLP(config)

    def forward(self, queries_BQC: Tensor, image_BNV: Tensor, **kwargs: Any) -> Tensor:
        x_BQC = self.itself(queries_BQC, queries_BQC, **kwargs)
        if self.picture is not None:
            x_BQC = self.picture(x_BQC, image_BNV, **kwargs)
        return self.mlp(x_BQC)


class OwlQFormer(OwlConnector):
    """Vision tokens [B, N, V] to [B, Q, D]: BLIP-2's queries, without its text side, and one linear layer."""

    config: OwlQFormerConfig
    _no_split_modules = ["QFormerLayer"]
    _can_record_outputs = {"hidden_states": QFormerLayer, "attentions": ConnectorAttention}

    def __init__(self, config: OwlQFormerConfig) -> None:
        super().__init__(config)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(QFormerLayer(config, index) for index in range(config.num_hidden_layers))
        self.projection = nn.Linear(config.hidden_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OwlQFormer):
            init.normal_(module.query_tokens, std=self.config.initializer_range)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, image_tokens: Tensor, **kwargs: Any) -> BaseModelOutput:
        x_BQC = F.dropout(self.norm(self.query_tokens), self.config.hidden_dropout, self.training)
        x_BQC = x_BQC.expand(image_tokens.shape[0], -1, -1)
        for layer in self.layers:
            x_BQC = layer(x_BQC, image_tokens, **kwargs)
        return BaseModelOutput(last_hidden_state=self.projection(x_BQC))


# ---- resampler -----------------------------------------------------------------------------------


@strict
class OwlResamplerConfig(PreTrainedConfig):
    model_type = "mplug_owl_resampler"

    hidden_size: int = 1024
    output_size: int = 4096
    num_queries: int = 64
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_heads(self)

    @property
    def input_size(self) -> int:
        return self.hidden_size

    @property
    def positions(self) -> int:
        return self.num_queries

    @property
    def summary(self) -> str:
        return f"resampler of {self.num_hidden_layers} layers, {self.num_queries} queries"


class ResamplerLayer(GradientCheckpointingLayer):
    """Flamingo's: the latents look at the picture and at themselves at once; no bias but those of the norms."""

    def __init__(self, config: OwlResamplerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_latents, self.norm_media, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.attention = ConnectorAttention(config, width, bias=False)
        self.fc1 = nn.Linear(width, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, latents_BQC: Tensor, image_BNC: Tensor, **kwargs: Any) -> Tensor:
        queries_BQC = self.norm_latents(latents_BQC)
        memory_BMC = torch.cat((self.norm_media(image_BNC), queries_BQC), dim=1)
        latents_BQC = latents_BQC + self.attention(queries_BQC, memory_BMC, **kwargs)[0]
        return latents_BQC + self.fc2(F.gelu(self.fc1(self.norm_mlp(latents_BQC))))


class OwlResampler(OwlConnector):
    """Vision tokens [B, N, C] to [B, Q, D]: Flamingo's perceiver, whose output the decoder reads like words."""

    config: OwlResamplerConfig
    _no_split_modules = ["ResamplerLayer"]
    _can_record_outputs = {"hidden_states": ResamplerLayer, "attentions": ConnectorAttention}

    def __init__(self, config: OwlResamplerConfig) -> None:
        super().__init__(config)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.hidden_size))
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OwlResampler):
            init.normal_(module.query_tokens, std=self.config.initializer_range)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, image_tokens: Tensor, **kwargs: Any) -> BaseModelOutput:
        x_BQC = self.query_tokens.expand(image_tokens.shape[0], -1, -1)
        for layer in self.layers:
            x_BQC = layer(x_BQC, image_tokens, **kwargs)
        return BaseModelOutput(last_hidden_state=self.projection(self.norm(x_BQC)))


MODELS: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    OwlAbstractorConfig: OwlAbstractor,
    OwlProjectorConfig: OwlProjector,
    OwlQFormerConfig: OwlQFormer,
    OwlResamplerConfig: OwlResampler,
}


def connector(config: PreTrainedConfig) -> PreTrainedModel:
    """f_K, of whichever kind."""
    return MODELS[type(config)](config)
