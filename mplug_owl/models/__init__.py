"""The model family as Transformers classes; importing this registers it with the Auto classes.

`load` opens anything that is an owl: a native folder, a published one, a hub name, or a family name
of `families.py` (random weights). `AutoModelForImageTextToText.from_pretrained` opens native and
published folders alike.
"""

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

from mplug_owl.models.abstractor import OwlAbstractor, OwlAbstractorConfig
from mplug_owl.models.adaptive import AdaptiveLlamaConfig, AdaptiveLlamaModel
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration, OwlModel
from mplug_owl.models.published import ALIASES
from mplug_owl.models.qwen1 import Qwen1Config, Qwen1Model
from mplug_owl.models.vision import OwlVisionConfig, OwlVisionModel

__all__ = [
    "OwlAbstractor",
    "OwlAbstractorConfig",
    "OwlConfig",
    "OwlForConditionalGeneration",
    "OwlModel",
    "OwlVisionConfig",
    "OwlVisionModel",
]

for _config, _model in (
    (OwlVisionConfig, OwlVisionModel),
    (OwlAbstractorConfig, OwlAbstractor),
    (AdaptiveLlamaConfig, AdaptiveLlamaModel),
    (Qwen1Config, Qwen1Model),
    (OwlConfig, OwlModel),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
for _config, _model in [(OwlConfig, OwlForConditionalGeneration), *ALIASES]:
    if _config is not OwlConfig:
        AutoConfig.register(_config.model_type, _config)
    AutoModelForImageTextToText.register(_config, _model)
    AutoModelForMultimodalLM.register(_config, _model)
