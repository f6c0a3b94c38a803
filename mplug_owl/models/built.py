"""An owl of one's own: any vision tower, one of five connectors and any Llama-like decoder, put together.

The parts keep their weights, the tower its image rule, the language model its tokenizer and its chat template. The
connector starts random, from a seed; a visual branch starts as a copy of the text branch, so at first it changes
nothing. Media ids lie behind the vocabulary. What is trained from here on is not known here.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from transformers.utils import logging

from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models import foreign
from mplug_owl.models.checkpoint import read_config, resolve_folder
from mplug_owl.models.connectors import connector
from mplug_owl.models.decoders import decoder
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration, vision_model
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.slots import OWN, Slots, configuration, image_rule, vision_kind
from mplug_owl.models.templates import IMAGE, llava_templates
from mplug_owl.models.towers import OwlTowerConfig, tower
from mplug_owl.models.twins import text_twin

Built = tuple[OwlForConditionalGeneration, OwlProcessor]
_COLOURS = {
    "clip": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "half": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "imagenet": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}
LANGUAGE = "model.language_model."


def build(slots: Slots, *, seed: int = 0, dtype: torch.dtype | str = "auto") -> Built:
    """The owl and its processor, on the CPU, in float32 unless another dtype is given."""
    made = torch.float32 if dtype == "auto" else dtype
    config = configuration(slots)
    processor = processor_of(slots, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = connector(config.abstractor_config).state_dict(prefix="model.abstractor.")
    tensors |= vision_tensors(resolve_folder(slots.vision), config, made)
    tensors |= language_tensors(resolve_folder(slots.language), config, made)
    return assembled(config, tensors, made), processor


def assembled(config: OwlConfig, tensors: dict[str, Any], dtype: torch.dtype | str) -> OwlForConditionalGeneration:
    """The owl of that configuration with those tensors."""
    return OwlForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype).eval()


def built_processor(slots: Slots) -> OwlProcessor:
    """The processor alone: no weight is read."""
    return processor_of(slots, configuration(slots))


# ---- weights of the parts ------------------------------------------------------------------------


def vision_tensors(folder: Path, config: OwlConfig, dtype: torch.dtype | str) -> dict[str, Tensor]:
    """The weights of f_V under the names of an owl; those that make no tokens stay behind."""
    kind = vision_kind(folder)
    if kind == OwlConfig.model_type:
        whole = OwlForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        found, stem = whole.model.vision.state_dict(), ""
    else:
        library, stem = (type(_weightless(config)), "") if kind in OWN else (tower(kind).model.__base__, "tower.")
        # BLIP-2's tower is no model of its own in its files, so the library would not find it.
        renamed = {"key_mapping": {r"^vision_model\.": ""}} if read_config(folder)["model_type"] == "blip-2" else {}
        own: Any = config.vision_config if kind in OWN else config.vision_config.tower_config
        found = complete(library, folder, config=own, dtype=dtype, **renamed).state_dict()
    wanted = _weightless(config).state_dict()
    return {f"model.vision.{name}": found[name.removeprefix(stem)] for name in wanted}


def _weightless(config: OwlConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return vision_model(config.vision_config)


def language_tensors(folder: Path, config: OwlConfig, dtype: torch.dtype | str) -> dict[str, Tensor]:
    """The weights of a causal language model under the names of an owl; a visual branch gets those of the text
    branch.
    """
    plain = complete(AutoModelForCausalLM, folder, dtype=dtype).state_dict()
    prefix = decoder(read_config(folder)["model_type"]).prefix
    text = {LANGUAGE + name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    return spoken(config, text | {"lm_head.weight": plain["lm_head.weight"]})


def spoken(config: OwlConfig, text: dict[str, Any]) -> dict[str, Any]:
    """All tensors that f_L and its head want, from those of a plain decoder under the same names."""
    with torch.device("meta"):
        wanted = OwlForConditionalGeneration(config).state_dict()
    stems = (LANGUAGE,) if config.tie_word_embeddings else (LANGUAGE, "lm_head.")
    return {
        name: text[name] if name in text else text_twin(name, text, tensor.shape)
        for name, tensor in wanted.items()
        if name.startswith(stems)
    }


def complete(library: Any, folder: Path, **options: Any) -> PreTrainedModel:
    """A model of the library, of which no tensor may be missing or of another shape."""
    wordiness = logging.get_verbosity()
    logging.set_verbosity_error()  # what is read and not wanted, such as the other half of a CLIP, is no news
    try:
        model, info = library.from_pretrained(folder, output_loading_info=True, local_files_only=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder} cannot be opened as a {library.__name__} ({reason})") from None
    finally:
        logging.set_verbosity(wordiness)
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise CheckpointError(
            f"{folder} lacks {min(map(str, wrong))!r}, or has it in another shape; expected a complete "
            f"{library.__name__}"
        )
    return model


# ---- what stands around them ---------------------------------------------------------------------


def processor_of(slots: Slots, config: OwlConfig) -> OwlProcessor:
    """The tower's image rule, the language model's tokenizer and template; `config` learns what ends an answer."""
    rule = picture_rule(resolve_folder(slots.vision), config.vision_config)
    return language_processor(resolve_folder(slots.language), config, rule)


def picture_rule(folder: Path, vision: PreTrainedConfig) -> OwlImageProcessorPil:
    """How pictures become pixels for that tower."""
    side = vision.image_size
    if read_config(folder)["model_type"] == OwlConfig.model_type:
        return OwlProcessor.from_pretrained(folder).image_processor
    if not isinstance(vision, OwlTowerConfig):
        return OwlImageProcessorPil(size={"height": side, "width": side})
    mean, std = _COLOURS[tower(vision.tower_config.model_type).colours]
    said = {"image_mean": mean, "image_std": std, "size": {"height": side, "width": side}} | image_rule(folder)
    return OwlImageProcessorPil.from_tower_config(said, side)


def language_processor(
    folder: Path,
    config: OwlConfig,
    rule: OwlImageProcessorPil,
    templates: dict[str, str] | None = None,
    end: str | None = None,
    bos: str | None = None,
) -> OwlProcessor:
    """The processor with the language model's own tokenizer, and its own template unless `templates` are given, with
    the `end` of their answers.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.is_fast:
        raise ConfigError(f"{folder} has a slow tokenizer, which does not say where words lie; expected tokenizer.json")
    brought, tokenizer.chat_template = tokenizer.chat_template, None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    own = templates is not None or not brought
    if own:
        templates = templates or llava_templates(tokenizer.eos_token or "")
        end = end or tokenizer.eos_token or ""
    else:
        said = brought["default"] if isinstance(brought, dict) else brought
        templates = {"default": said, "training": said}
        words = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        end = foreign.answer_end(said, words) or tokenizer.eos_token or ""
    config.text_config.eos_token_id = _ends(folder, tokenizer, config.text_config, end)
    return OwlProcessor(
        rule,
        tokenizer,
        image_token=IMAGE,
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        media_length=config.media_length,
        # A template writes the first token itself; without one it is the tokenizer that says whether there is any.
        bos=bos or ("first" if own and _begins(tokenizer) else "none"),
        answer_end=end,
        own_template=own,
        chat_template=templates,
    )


def _begins(tokenizer: PreTrainedTokenizerFast) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _ends(folder: Path, tokenizer: PreTrainedTokenizerFast, text: PreTrainedConfig, end: str) -> int | list[int] | None:
    """Every id that ends an answer: what the model's files say, and what its template writes."""
    said: list[Any] = [text.eos_token_id, tokenizer.eos_token_id]
    if (folder / "generation_config.json").is_file():
        said.append(GenerationConfig.from_pretrained(folder).eos_token_id)
    if len(written := tokenizer(end, add_special_tokens=False)["input_ids"]) == 1:
        said += written
    ids = sorted({token for each in said if each is not None for token in (each if isinstance(each, list) else [each])})
    return ids[0] if len(ids) == 1 else ids or None
