"""The three slots of an owl as configurations: which vision tower, which connector, which decoder, and how they meet.

Only configuration files are read, so a plan costs nothing. The defaults are those of the connector's paper: projections
(LLaVA) read the penultimate layer without cls, everything else the last one with whatever it has. Weights, tokenizers
and prompts are not known here.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoConfig, PreTrainedConfig

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.models.abstractor import OwlAbstractorConfig
from mplug_owl.models.checkpoint import read_config, resolve_folder
from mplug_owl.models.connectors import OwlProjectorConfig, OwlQFormerConfig, OwlResamplerConfig
from mplug_owl.models.decoders import branched, decoder, settled
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.owl import OwlConfig
from mplug_owl.models.towers import HALVES, OwlTowerConfig, tower
from mplug_owl.models.vision import OwlVisionConfig

HEAD = 64  # the usual width of a head
QUERIES = 64
OWN = (OwlConfig.model_type, OwlVisionConfig.model_type)
"""Kinds of folders whose vision model is one of ours, or was made so."""
PROJECTIONS = ("linear", "mlp")
"""Connectors that keep every token, and so have no queries."""


@dataclass(frozen=True)
class Slots:
    """What an owl is put together from; the folders are local or hub names."""

    vision: str | Path
    connector: str
    language: str | Path
    adaptive: bool = False
    queries: int | None = None
    """Learned queries of the connector, 64 unless given."""
    features: str | None = None
    """"last" or "penultimate" layer of the tower."""
    cls: bool | None = None
    """Whether the connector sees the cls token."""
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.connector not in CONNECTORS:
            raise ConfigError(f"unknown connector {self.connector!r}{did_you_mean(self.connector, CONNECTORS)}")


def configuration(slots: Slots) -> OwlConfig:
    """The configuration of the owl."""
    vision = vision_config(slots)
    text = text_config(slots.language, slots.adaptive)
    return OwlConfig(
        vision_config=vision,
        abstractor_config=connector_config(slots.connector, vision, text.hidden_size, slots.queries),
        text_config=text,
    )


# ---- vision --------------------------------------------------------------------------------------


def vision_kind(folder: Path) -> str:
    """What kind of vision model a folder holds, alone or as a half."""
    kind = read_config(folder)["model_type"]
    return HALVES.get(kind, kind)


def vision_config(slots: Slots) -> PreTrainedConfig:
    """f_V: our own ViT as it was trained, or a tower from elsewhere. Pictures have the size that is wished for, else
    that of the tower's image processor, else that the tower was trained with.
    """
    folder = resolve_folder(slots.vision)
    kind = vision_kind(folder)
    if kind in OWN:
        return _own_vision(slots, folder, kind)
    row, projects = tower(kind), slots.connector in PROJECTIONS
    rule = image_rule(folder)
    stated = OwlImageProcessorPil.from_tower_config(rule).size["height"] if rule.get("size") else None
    return OwlTowerConfig(
        tower_config=row.model.config_class.from_pretrained(folder),
        features=slots.features or ("penultimate" if projects else "last"),
        use_cls_token=row.has_cls and not projects if slots.cls is None else slots.cls,
        image_size=slots.image_size or stated,
    )


def _own_vision(slots: Slots, folder: Path, kind: str) -> PreTrainedConfig:
    whole = kind == OwlConfig.model_type
    found: Any = OwlConfig.from_pretrained(folder).vision_config if whole else OwlVisionConfig.from_pretrained(folder)
    for name in ("features", "cls", "image_size"):
        if (value := getattr(slots, name)) is not None:
            raise ConfigError(f"{name}={value!r}: the f_V of an owl is taken as it is; leave {name} out")
    if isinstance(found, OwlVisionConfig):
        found.temporal = False  # what comes after it sees pictures, not videos
    return found


def image_rule(folder: Path) -> dict[str, Any]:
    """What the files of a tower say about its image processor; nothing, where there is none."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (folder / name).is_file():
            said = json.loads((folder / name).read_text(encoding="utf-8"))
            return said if key is None else said.get(key) or {}
    return {}


# ---- connector -----------------------------------------------------------------------------------


class Sight(Protocol):
    """What a connector must know of a vision model: its configuration."""

    hidden_size: int
    use_cls_token: bool
    grid: int
    num_tokens: int


def heads_of(width: int) -> int:
    """So many heads that none is wider than usual."""
    return next(count for count in range(-(-width // HEAD), width + 1) if width % count == 0)


def _abstractor(vision: Sight, output_size: int, queries: int) -> OwlAbstractorConfig:
    width = vision.hidden_size
    return OwlAbstractorConfig(
        hidden_size=width,
        output_size=output_size,
        num_queries=queries,
        num_attention_heads=heads_of(width),
        intermediate_size=11 * width // 4,
        position_grid=None if width % 4 else vision.grid,
        use_cls_token=vision.use_cls_token,
    )


def _projector(layers: int) -> Callable[[Sight, int, int], OwlProjectorConfig]:
    def make(vision: Sight, output_size: int, queries: int) -> OwlProjectorConfig:
        return OwlProjectorConfig(
            input_size=vision.hidden_size,
            output_size=output_size,
            num_tokens=vision.num_tokens,
            num_hidden_layers=layers,
        )

    return make


def _qformer(vision: Sight, output_size: int, queries: int) -> OwlQFormerConfig:
    width = min(vision.hidden_size, OwlQFormerConfig.hidden_size)  # BLIP-2's, but never wider than what it looks at
    return OwlQFormerConfig(
        input_size=vision.hidden_size,
        hidden_size=width,
        output_size=output_size,
        num_queries=queries,
        num_attention_heads=heads_of(width),
        intermediate_size=4 * width,
    )


def _resampler(vision: Sight, output_size: int, queries: int) -> OwlResamplerConfig:
    width = vision.hidden_size
    return OwlResamplerConfig(
        hidden_size=width,
        output_size=output_size,
        num_queries=queries,
        num_attention_heads=heads_of(width),
        intermediate_size=4 * width,
    )


CONNECTORS: dict[str, Callable[[Sight, int, int], PreTrainedConfig]] = {
    "abstractor": _abstractor,
    "linear": _projector(1),
    "mlp": _projector(2),
    "q-former": _qformer,
    "resampler": _resampler,
}


def connector_config(name: str, vision: Any, output_size: int, queries: int | None = None) -> PreTrainedConfig:
    """The connector `name` between a vision model of that configuration and a decoder of that width."""
    if queries is not None and (queries < 1 or name in PROJECTIONS):
        wish = "expected at least 1" if queries < 1 else f"{name} has none: it keeps all {vision.num_tokens} tokens"
        raise ConfigError(f"queries={queries}; {wish}")
    return CONNECTORS[name](vision, output_size, queries or QUERIES)


# ---- language ------------------------------------------------------------------------------------


def text_config(language: str | Path, adaptive: bool) -> PreTrainedConfig:
    """f_L, plain or with a visual branch."""
    folder = resolve_folder(language)
    kind = read_config(folder)["model_type"]
    decoder(kind)  # it knows why a kind is refused, where the library may not know the kind at all
    return branched(settled(AutoConfig.from_pretrained(folder)), adaptive)
