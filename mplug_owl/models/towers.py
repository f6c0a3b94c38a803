"""f_V from elsewhere: any vision tower of Transformers, seen as one more vision model.

`TOWERS` says of each kind where its layers and its last norm stand and which tokens are no patches. The features are
those of the last layer behind the last norm, or of the layer before, which then is the last there is: what nobody reads
is neither kept nor computed. Tokens leave as [cls,] patches, row by row. How pixels are made is not known here.

Shapes: F images, N tokens, P patches, C width, G grid side, S patch side.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Blip2VisionModel,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from mplug_owl.errors import ConfigError, RequestError, did_you_mean

# ---- the library's towers, under classes of our own: files then hold the names that modules have -------------------


class ClipTower(CLIPVisionModel):
    """CLIP, and what has its shape."""


class SiglipTower(SiglipVisionModel):
    """SigLIP, and SigLIP 2 of one resolution, which has its shape."""


class Blip2Tower(Blip2VisionModel):
    """EVA's ViT, as BLIP-2 and MiniGPT-4 have it."""


class Dinov2Tower(Dinov2Model):
    """DINOv2."""


class Dinov2RegistersTower(Dinov2WithRegistersModel):
    """DINOv2 with registers."""


class Siglip2Tower(Siglip2VisionModel):
    """SigLIP 2 of any resolution (NaFlex), for squares: all pictures have one grid, so no patch is padding."""

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:  # type: ignore[override]
        embeddings, size = self.embeddings, self.config.patch_size
        grid = pixel_values.shape[-1] // size
        # [F, 3, G S, G S] -> [F, P, S S 3], as its image processor cuts them.
        x = pixel_values.unflatten(3, (grid, size)).unflatten(2, (grid, size))
        x_FNC = embeddings.patch_embedding(x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))
        side = embeddings.position_embedding_size
        table = embeddings.position_embedding.weight.unflatten(0, (side, side)).permute(2, 0, 1)[None]
        wide = table.to(torch.promote_types(table.dtype, torch.float32))
        wide = F.interpolate(wide, size=(grid, grid), mode="bilinear", align_corners=False, antialias=True)
        x_FNC = x_FNC + wide[0].flatten(1).T.to(table.dtype)
        encoded = self.encoder(inputs_embeds=x_FNC, **kwargs).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.post_layernorm(encoded))


class SteadyRotation(DINOv3ViTRopePositionEmbedding):
    """DINOv3's rotary positions as at inference: never shifted at random, and kept nowhere outside of the model."""

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        grid = pixel_values.shape[-1] // self.config.patch_size
        line = (torch.arange(grid, dtype=torch.float32, device=pixel_values.device) + 0.5) / grid
        places_P2 = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1) * 2 - 1
        angles = (2 * torch.pi * places_P2[:, :, None] * self.inv_freq).flatten(1).tile(2)
        return angles.cos().to(pixel_values.dtype), angles.sin().to(pixel_values.dtype)


class Dinov3Tower(DINOv3ViTModel):
    """DINOv3."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.rope_embeddings = SteadyRotation(config)
        self.post_init()


class Tower(NamedTuple):
    """What is to be known of a kind of tower."""

    model: type[PreTrainedModel]
    layers: str = "encoder.layers"
    norm: str = "post_layernorm"
    has_cls: bool = True
    norms_tokens: bool = True
    """Whether its own forward puts the last norm on every token."""
    sets_size: bool = True
    """Whether it must be told of pictures that have not the side it was trained with."""
    unused: tuple[str, ...] = ()
    """Switches of parts that make no tokens."""
    colours: Literal["clip", "half", "imagenet"] = "clip"
    """Mean and deviation, where no file says them."""


_HEAD, _MASK = ("vision_use_head",), ("use_mask_token",)
TOWERS: dict[str, Tower] = {
    "clip_vision_model": Tower(ClipTower, norms_tokens=False),
    "siglip_vision_model": Tower(SiglipTower, has_cls=False, unused=_HEAD, colours="half"),
    "siglip2_vision_model": Tower(Siglip2Tower, has_cls=False, sets_size=False, unused=_HEAD, colours="half"),
    "blip_2_vision_model": Tower(Blip2Tower),
    "dinov2": Tower(Dinov2Tower, "encoder.layer", "layernorm", sets_size=False, unused=_MASK, colours="imagenet"),
    "dinov2_with_registers": Tower(
        Dinov2RegistersTower, "encoder.layer", "layernorm", sets_size=False, colours="imagenet"
    ),
    "dinov3_vit": Tower(Dinov3Tower, "model.layer", "norm", sets_size=False, colours="imagenet"),
}
# The kind of the vision half, by the kind of a whole model that has one.
HALVES = {
    "clip": "clip_vision_model",
    "siglip": "siglip_vision_model",
    "siglip2": "siglip2_vision_model",
    "blip-2": "blip_2_vision_model",
}


def tower(kind: str) -> Tower:
    """The row of a kind, or an error that says which there are."""
    if kind not in TOWERS:
        raise ConfigError(f"a vision tower of kind {kind!r} has no place in an owl{did_you_mean(kind, TOWERS)}")
    return TOWERS[kind]


# ---- one of them as f_V --------------------------------------------------------------------------


@strict
class OwlTowerConfig(PreTrainedConfig):
    model_type = "mplug_owl_tower"
    sub_configs_defaults = {"tower_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model")}

    tower_config: dict | PreTrainedConfig | None = None
    features: str = "last"
    """"last" (behind the last norm) or "penultimate" (in front of the last layer, which is left out)."""
    use_cls_token: bool = True
    """Whether the cls token goes on to the connector."""
    image_size: int | None = None
    """Side of the pictures; the one the tower was trained with unless given."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.features not in ("last", "penultimate"):
            raise ConfigError(f"features={self.features!r}{did_you_mean(self.features, ('last', 'penultimate'))}")
        row = tower(self.tower_config.model_type)
        if self.use_cls_token and not row.has_cls:
            raise ConfigError(f"use_cls_token=True: a {self.tower_config.model_type} has no cls token; leave it out")
        if not isinstance(self.tower_config.patch_size, int):
            raise ConfigError(f"patch_size={self.tower_config.patch_size} of a tower; expected one number, for squares")
        if self.image_size is None:
            self.image_size = self.trained_size
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}")
        for name in row.unused:
            setattr(self.tower_config, name, False)

    @property
    def trained_size(self) -> int:
        own = self.tower_config
        if hasattr(own, "num_patches"):
            return round(own.num_patches**0.5) * own.patch_size
        size = own.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def hidden_size(self) -> int:
        return self.tower_config.hidden_size

    @property
    def patch_size(self) -> int:
        return self.tower_config.patch_size

    @property
    def num_hidden_layers(self) -> int:
        return self.tower_config.num_hidden_layers - int(self.features == "penultimate")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens that the connector gets of one image."""
        return self.grid**2 + int(self.use_cls_token)

    @property
    def temporal(self) -> bool:
        """No tower sees a video as a whole."""
        return False


class OwlTower(PreTrainedModel):
    """Pictures [F, 3, X, Y] to tokens [F, N, C]."""

    config: OwlTowerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: OwlTowerConfig) -> None:
        super().__init__(config)
        self.row = tower(config.tower_config.model_type)
        self.tower = self.row.model(config.tower_config)
        if config.features == "penultimate":
            del self.tower.get_submodule(self.row.layers)[-1]
            setattr(self.tower, self.row.norm, nn.Identity())
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        size = self.config.image_size
        if tuple(pixel_values.shape[1:]) != (3, size, size):
            raise RequestError(
                f"pixels have shape {list(pixel_values.shape)}; this vision model takes "
                f"[images, 3, {size}, {size}]: prepare pictures with the processor saved beside it"
            )
        if self.row.sets_size and size != self.config.trained_size:
            kwargs["interpolate_pos_encoding"] = True
        seen = self.tower(pixel_values.to(self.dtype), **kwargs)
        x_FNC = seen.last_hidden_state
        if not self.row.norms_tokens:
            x_FNC = getattr(self.tower, self.row.norm)(x_FNC)
        # Whatever is no patch stands in front: cls, then registers, which carry nothing.
        patches = x_FNC[:, x_FNC.shape[1] - self.config.grid**2 :]
        if self.config.use_cls_token:
            patches = torch.cat((x_FNC[:, :1], patches), dim=1)
        return BaseModelOutput(patches, getattr(seen, "hidden_states", None), getattr(seen, "attentions", None))
