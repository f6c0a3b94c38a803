"""The model family as Transformers classes; importing this registers it with the Auto classes.

`load` opens anything that is an owl: a native folder, a published one, a hub name, or a family name of `families.py`
(random weights, but for the owlet, whose trained weights come along). The Auto classes open native and published
folders alike.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from mplug_owl.errors import CheckpointError, ConfigError, did_you_mean
from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig
from mplug_owl.models.adapters import BASE, apply_adapter, read_base
from mplug_owl.models.adaptive import AdaptiveLlamaConfig, AdaptiveLlamaModel
from mplug_owl.models.checkpoint import read_config, resolve_folder
from mplug_owl.models.connectors import MODELS as CONNECTOR_MODELS
from mplug_owl.models.families import FAMILIES, Family, build, build_processor
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.layouts import LAYOUTS
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration, OwlModel
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.published import ALIASES, PublishedProcessor, load_published, published_processor
from mplug_owl.models.qwen1 import Qwen1Config, Qwen1Model
from mplug_owl.models.towers import OwlTower, OwlTowerConfig
from mplug_owl.models.twins import TWINS
from mplug_owl.models.vision import OwlVisionConfig, OwlVisionModel

__all__ = [
    "OwlAbstractor",
    "OwlAbstractorConfig",
    "OwlConfig",
    "OwlForConditionalGeneration",
    "OwlImageProcessorPil",
    "OwlModel",
    "OwlProcessor",
    "OwlVisionConfig",
    "OwlVisionModel",
    "load",
    "load_processor",
]

for _config, _model in (
    (OwlVisionConfig, OwlVisionModel),
    (OwlTowerConfig, OwlTower),
    *CONNECTOR_MODELS.items(),
    (AdaptiveLlamaConfig, AdaptiveLlamaModel),
    *TWINS,
    (Qwen1Config, Qwen1Model),
    (OwlConfig, OwlModel),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
for _config, _model, _processor in (
    (OwlConfig, OwlForConditionalGeneration, OwlProcessor),
    *((config, model, PublishedProcessor) for config, model in ALIASES),
):
    if _config is not OwlConfig:
        AutoConfig.register(_config.model_type, _config)
    AutoModelForImageTextToText.register(_config, _model)
    AutoModelForMultimodalLM.register(_config, _model)
    AutoProcessor.register(_config, _processor)
    AutoImageProcessor.register(_config, image_processor_classes={"pil": OwlImageProcessorPil})

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    **hub: Any,
) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    """Open an owl with its processor; an adapter folder alone opens its base and puts it on.

    `device="auto"` takes an NVIDIA GPU, then Apple's (untested), then the CPU. `dtype="auto"` keeps the dtype of the
    files, but float16 becomes bfloat16 on a CPU, which computes float16 slowly.
    """
    if adapter is None and (Path(name_or_path) / BASE).is_file():
        name_or_path, adapter = read_base(name_or_path).name, name_or_path
    device, name = pick_device(device), str(name_or_path)
    wanted = dtype if dtype == "auto" else as_dtype(dtype)
    if name in FAMILIES and FAMILIES[name].weights is None:
        model, processor = build(name, dtype=torch.float32 if wanted == "auto" else wanted)
    else:
        model, processor = _open(_shipped(FAMILIES[name]) if name in FAMILIES else find(name, **hub), wanted)
    if dtype == "auto" and device == "cpu" and model.dtype == torch.float16:
        model = model.to(torch.bfloat16)
    if adapter is not None:
        model = apply_adapter(model, adapter, name=name_or_path)
        processor = OwlProcessor.from_pretrained(adapter)
    return model.to(device), processor


def _shipped(row: Family) -> Path:
    """The folder of the weights that come with the package."""
    if not row.is_trained:
        raise CheckpointError(
            f"{row.weights} holds no model.safetensors: the weights of {row.name!r} are not here; make them with "
            f"`owl train {row.name} --out RUN` and give the folder it names, or build random ones with "
            f"mplug_owl.models.families.build({row.name!r})"
        )
    return row.weights


def _open(folder: Path, dtype: str | torch.dtype) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    raw = read_config(folder)
    if raw["model_type"] in LAYOUTS:
        model, report = load_published(folder, dtype)
        return model, published_processor(folder, raw, model.config, report)
    if raw["model_type"] == OwlConfig.model_type:
        model = OwlForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        return model, OwlProcessor.from_pretrained(folder)
    known = [OwlConfig.model_type, *LAYOUTS]
    hint = did_you_mean(raw["model_type"], known)
    raise CheckpointError(f"{folder} is no owl: model_type {raw['model_type']!r}{hint}")


def load_processor(name_or_path: str | Path, **hub: Any) -> OwlProcessor:
    """The processor of anything `load` opens, without its weights."""
    if str(name_or_path) in FAMILIES:
        return build_processor(str(name_or_path))
    if (Path(name_or_path) / BASE).is_file():
        return OwlProcessor.from_pretrained(name_or_path)
    folder = find(str(name_or_path), **hub)
    kind = read_config(folder)["model_type"]
    opener = PublishedProcessor if kind in LAYOUTS else OwlProcessor
    return opener.from_pretrained(folder)


def find(name: str, **hub: Any) -> Path:
    """The folder behind a path or a hub name; a name that is neither is met with a suggestion."""
    if "/" not in name and not Path(name).exists():
        raise ConfigError(
            f"{name!r} is neither a folder nor a family nor a hub name 'owner/model'{did_you_mean(name, FAMILIES)}"
        )
    return resolve_folder(name, **hub)


def pick_device(device: str) -> str:
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device {device!r} cannot be used: {reason}; try 'auto'") from None
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}{did_you_mean(name, ['auto', *DTYPES])}")
    return DTYPES[name]
