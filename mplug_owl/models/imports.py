"""Owls from other people's owls: LLaVA-1.5, BLIP-2 with OPT and MiniGPT-4, from folders in Transformers format.

Each is three modules of kinds that `slots.py` knows, so an import renames tensors and computes nothing: the owl answers
as the original does. MiniGPT-4 is put together from its parts: BLIP-2's tower and q-former, Vicuna, and its one linear
layer. What has another shape (T5 decoders, InstructBLIP's q-former that reads the question) is refused with the reason.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)

from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.built import (
    LANGUAGE,
    Built,
    assembled,
    complete,
    language_processor,
    language_tensors,
    picture_rule,
    spoken,
)
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.connectors import OwlProjectorConfig, OwlQFormerConfig
from mplug_owl.models.decoders import decoder, settled
from mplug_owl.models.owl import OwlConfig, vision_model
from mplug_owl.models.slots import text_config
from mplug_owl.models.templates import llava_templates, minigpt4_templates, question_templates
from mplug_owl.models.towers import OwlTowerConfig

SOURCES = ("llava", "blip-2")
REFUSED = {
    "instructblip": "its q-former reads the question beside the picture, so a picture has no rows of its own",
    "instructblipvideo": "its q-former reads the question beside the picture, so a picture has no rows of its own",
    "llava_next": "it cuts pictures into as many tiles as they need, and an owl gives each picture the same length",
    "video_llava": "it has two towers, one for pictures and one for videos",
}
_ASKS = ("qformer.", "query_tokens")
_QFORMER_NAMES = (
    (r"^qformer\.layernorm\.", "norm."),
    (r"^qformer\.encoder\.layer\.(\d+)\.", r"layers.\1."),
    (r"^language_projection\.", "projection."),
    (r"\.crossattention\.attention\.", ".picture.attention."),
    (r"\.crossattention\.output\.dense\.", ".picture.attention.dense."),
    (r"\.crossattention\.output\.LayerNorm\.", ".picture.norm."),
    (r"(\d)\.attention\.attention\.", r"\1.itself.attention."),
    (r"(\d)\.attention\.output\.dense\.", r"\1.itself.attention.dense."),
    (r"(\d)\.attention\.output\.LayerNorm\.", r"\1.itself.norm."),
    (r"\.intermediate_query\.dense\.", ".mlp.fc1."),
    (r"\.output_query\.dense\.", ".mlp.fc2."),
    (r"\.output_query\.LayerNorm\.", ".mlp.norm."),
)


def imported(
    source: str | Path,
    *,
    language: str | Path | None = None,
    projection: str | Path | None = None,
    dtype: torch.dtype | str = "auto",
) -> Built:
    """The owl that a LLaVA or BLIP-2 folder is; with a `language`, MiniGPT-4 from a BLIP-2 folder, that Vicuna and the
    file of its linear layer.

    Raises: ConfigError where the model is of no kind that an owl can be.
    """
    folder, made = resolve_folder(source), torch.float32 if dtype == "auto" else dtype
    kind = read_config(folder)["model_type"]
    if kind not in SOURCES:
        reason = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise ConfigError(f"{folder} is a {kind!r}, which is no owl{reason}; expected one of {', '.join(SOURCES)}")
    if (language is None) != (projection is None) or (language is not None and kind != "blip-2"):
        raise ConfigError(
            f"language={language!r}, projection={projection!r} with a {kind}: MiniGPT-4 is a BLIP-2 folder with both, "
            "any other import has neither"
        )
    if kind == "llava":
        return _llava(folder, made)
    return _blip2(folder, made) if language is None else _minigpt4(folder, language, Path(str(projection)), made)


# ---- LLaVA ---------------------------------------------------------------------------------------


def _llava(folder: Path, dtype: torch.dtype | str) -> Built:
    said = LlavaConfig.from_pretrained(folder)
    if said.vision_feature_layer != -2:
        raise ConfigError(
            f"vision_feature_layer={said.vision_feature_layer}; expected -2, as in LLaVA-1.5: an owl reads the "
            "penultimate layer, or the last one behind its norm, which no LLaVA does"
        )
    vision = OwlTowerConfig(
        tower_config=said.vision_config,
        features="penultimate",
        use_cls_token=said.vision_feature_select_strategy == "full",
    )
    text = settled(said.text_config)
    connector = OwlProjectorConfig(
        input_size=vision.hidden_size,
        output_size=text.hidden_size,
        num_tokens=vision.num_tokens,
        num_hidden_layers=2,
        hidden_act=said.projector_hidden_act,
        bias=said.multimodal_projector_bias,
    )
    config = OwlConfig(vision_config=vision, abstractor_config=connector, text_config=text)
    processor = language_processor(folder, config, picture_rule(folder, vision), llava_templates())
    found = complete(LlavaForConditionalGeneration, folder, dtype=dtype).state_dict()
    projector = "model.multi_modal_projector.linear_"
    tensors = _seen(config, found, "model.vision_tower.")
    tensors |= {
        f"model.abstractor.layers.{index}.{part}": found[f"{projector}{index + 1}.{part}"]
        for index in (0, 1)
        for part in ("weight", "bias")[: 1 + connector.bias]
    }
    spoke = {name: tensor for name, tensor in found.items() if name.startswith((LANGUAGE, "lm_head."))}
    return assembled(config, tensors | spoken(config, spoke), dtype), processor


def _seen(config: OwlConfig, found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of the tower, which stand behind `prefix` in the file."""
    with torch.device("meta"):
        wanted = {
            name: prefix + name.removeprefix("tower.") for name in vision_model(config.vision_config).state_dict()
        }
    absent = [name for name in wanted.values() if name not in found]
    if absent:
        raise CheckpointError(f"{len(absent)} tensor(s) of the tower missing, first {absent[0]!r}; download them again")
    return {f"model.vision.{ours}": found[theirs] for ours, theirs in wanted.items()}


# ---- BLIP-2 and MiniGPT-4 ------------------------------------------------------------------------


def _blip2(folder: Path, dtype: torch.dtype | str) -> Built:
    said = Blip2Config.from_pretrained(folder)
    kind = said.text_config.model_type
    prefix = f"language_model.{decoder(kind).prefix}"
    config = _blip2_config(said, settled(said.text_config))
    rule = picture_rule(folder, config.vision_config)
    processor = language_processor(folder, config, rule, question_templates(), end="\n", bos="none")
    found = complete(Blip2ForConditionalGeneration, folder, dtype=dtype).state_dict()
    spoke = {LANGUAGE + name.removeprefix(prefix): t for name, t in found.items() if name.startswith(prefix)}
    spoke["lm_head.weight"] = found["language_model.lm_head.weight"]
    tensors = _seen(config, found, "vision_model.") | _asked(found)
    return assembled(config, tensors | spoken(config, spoke), dtype), processor


def _minigpt4(folder: Path, language: str | Path, projection: Path, dtype: torch.dtype | str) -> Built:
    words = resolve_folder(language)
    text = text_config(words, adaptive=False)
    config = _blip2_config(Blip2Config.from_pretrained(folder), text)
    rule = picture_rule(folder, config.vision_config)
    processor = language_processor(words, config, rule, minigpt4_templates(), end="###")
    checkpoint = Checkpoint(folder)  # most of it is a language model that is not wanted
    found = {name: checkpoint[name][...] for name in checkpoint if name.startswith(("vision_model.", *_ASKS))}
    asked = _asked(found) | _projection(projection, config)
    tensors = _seen(config, found, "vision_model.") | asked | language_tensors(words, config, dtype)
    return assembled(config, tensors, dtype), processor


def _blip2_config(said: Blip2Config, text: PreTrainedConfig) -> OwlConfig:
    qformer: Any = said.qformer_config
    kept = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    return OwlConfig(
        vision_config=OwlTowerConfig(tower_config=said.vision_config),
        abstractor_config=OwlQFormerConfig(
            **{name: getattr(qformer, name) for name in (*kept, "layer_norm_eps", "cross_attention_frequency")},
            input_size=qformer.encoder_hidden_size,
            output_size=text.hidden_size,
            num_queries=said.num_query_tokens,
            hidden_dropout=qformer.hidden_dropout_prob,
            attention_dropout=qformer.attention_probs_dropout_prob,
        ),
        text_config=text,
    )


def _asked(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The q-former, its queries and its projection under the names of an owl; its text side stays behind."""
    tensors = {}
    for name, tensor in found.items():
        if not name.startswith((*_ASKS, "language_projection.")):
            continue
        ours = name
        for pattern, replacement in _QFORMER_NAMES:
            ours = re.sub(pattern, replacement, ours)
        if not re.search(r"\.(intermediate|output)\.", ours):
            tensors[f"model.abstractor.{ours}"] = tensor
    return tensors


def _projection(file: Path, config: OwlConfig) -> dict[str, Tensor]:
    """MiniGPT-4's own file: a linear layer called `llama_proj`, alone or among other things."""
    try:
        said = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a wrong file makes the library raise
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}); expected MiniGPT-4's checkpoint"
        ) from None
    said = said.get("model", said) if isinstance(said, dict) else {}
    tensors = {part: said.get(f"llama_proj.{part}") for part in ("weight", "bias")}
    connector: Any = config.abstractor_config
    expected = {"weight": (connector.output_size, connector.hidden_size), "bias": (connector.output_size,)}
    for part, tensor in tensors.items():
        have = None if tensor is None else tuple(tensor.shape)
        if have != expected[part]:
            raise CheckpointError(
                f"{file}: llama_proj.{part} has the shape {have}; expected {expected[part]}, from this q-former to "
                "this language model"
            )
    return {f"model.abstractor.projection.{part}": tensor for part, tensor in tensors.items() if tensor is not None}
