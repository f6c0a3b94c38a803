"""The families as rows of one table: a configuration, a prompt format, an image rule.

`build` makes a randomly initialised owl of any family. The `tiny-*` rows are the architectures of the papers small
enough for tests and demonstrations; they bring a byte-level tokenizer, so they need no file at all. The `owlet` rows
are small enough to be trained on any machine, with a tokenizer of the drawn world they learn from; the weights of one
of them come with the package.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import BloomConfig, LlamaConfig, PreTrainedTokenizerFast

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.models.abstractor import OwlAbstractorConfig
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.qwen1 import Qwen1Config
from mplug_owl.models.tokenizers import OWLET, OWLET_WORDS, byte_tokenizer, owlet_tokenizer
from mplug_owl.models.vision import OwlVisionConfig


@dataclass(frozen=True)
class Family:
    name: str
    summary: str
    config: Callable[[], OwlConfig]
    prompt: str
    """Prompt format of `templates.py`."""
    aspect: str
    """How a picture becomes square: square, crop, pad or resize."""
    repository: str | None = None
    """Where the released weights lie, if there are any."""
    tokenizer: Callable[[], PreTrainedTokenizerFast] = byte_tokenizer
    """That of a family which needs no file from elsewhere."""
    weights: Path | None = None
    """The folder in this package that holds trained weights, or will once they are trained."""

    @property
    def is_trained(self) -> bool:
        return self.weights is not None and (self.weights / "model.safetensors").is_file()


@dataclass(frozen=True)
class Size:
    """What differs between the released size of a family and its tiny twin; empty means the defaults, which are
    released.
    """

    vision: dict[str, Any] = field(default_factory=dict)
    bigg: dict[str, Any] = field(default_factory=dict)
    abstractor: dict[str, Any] = field(default_factory=dict)
    llama: dict[str, Any] = field(default_factory=dict)
    bloom: dict[str, Any] = field(default_factory=dict)
    qwen: dict[str, Any] = field(default_factory=dict)


# The ViT of Owl2.1 could not be inspected: this is OpenCLIP bigG, its likely shape. Loading trusts the tensors.
_BIGG = {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16}
FULL = Size(
    bigg={**_BIGG, "patch_size": 14, "image_size": 448},
    bloom={"vocab_size": 250880, "hidden_size": 4096, "n_layer": 30, "n_head": 32, "pad_token_id": 3},
    qwen={"vocab_size": 151851, "eos_token_id": 151643, "pad_token_id": 151643},
)
_VIT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56}
_TEXT = {"vocab_size": 259, "hidden_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_DECODER = {**_TEXT, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
TINY = Size(
    vision={**_VIT, "layer_norm_eps": 1e-5},
    bigg={**_VIT, "layer_norm_eps": 1e-5},
    abstractor={
        **{k: v for k, v in _VIT.items() if k != "image_size"},
        "output_size": 64,
        "num_queries": 8,
        "attention_dropout": 0.0,
    },
    llama={**_DECODER, "num_key_value_heads": 2, "max_position_embeddings": 2048},
    bloom={**_TEXT, "n_layer": 2, "n_head": 4},
    qwen={**_DECODER, "max_position_embeddings": 2048, "seq_length": 1024},
)


def _owlet(*, sight: int, stem: list[int], patch: int, layers: tuple[int, int, int], queries: int, speech: int) -> Size:
    """An owlet's size: the width of f_V and f_K, of the convolutions before the patches, the side of a patch, the
    layers of f_V, f_K and f_L, the queries, the width of f_L. Pictures have the side that the world is drawn with;
    attention has heads of 64 and less.
    """
    # The papers' 0.02 is for widths of a thousand and more; here it leaves attention blind for long.
    heads = {"num_attention_heads": 4, "initializer_range": 0.05}
    f_v, f_k, f_l = ({"num_hidden_layers": count, **heads} for count in layers)
    eye = {"image_size": 96, "patch_size": patch, "hidden_size": sight, "intermediate_size": 3 * sight}
    inner = 11 * sight // 4
    decoder = {"hidden_size": speech, "intermediate_size": 11 * speech // 4, "tie_word_embeddings": True}
    words = {"vocab_size": OWLET_WORDS, "bos_token_id": None, "eos_token_id": 1, "max_position_embeddings": 2048}
    return Size(
        vision={**f_v, **eye, "layer_norm_eps": 1e-5, "stem_widths": stem},
        abstractor={
            **f_k,
            "hidden_size": sight,
            "intermediate_size": inner,
            "output_size": speech,
            "num_queries": queries,
            "attention_dropout": 0.0,
        },
        llama={**f_l, **decoder, **words},
    )


MIDDLE = _owlet(sight=256, stem=[32, 64, 128], patch=8, layers=(3, 2, 4), queries=32, speech=256)
NANO = _owlet(sight=128, stem=[24, 48], patch=12, layers=(2, 1, 3), queries=16, speech=128)


def _owl(size: Size, temporal: bool = False) -> OwlConfig:
    return OwlConfig(
        vision_config=OwlVisionConfig(temporal=temporal, **size.vision),
        abstractor_config=OwlAbstractorConfig(**{"attention_dropout": 0.1, "temporal": temporal, **size.abstractor}),
        text_config=LlamaConfig(**{"pad_token_id": 0, **size.llama}),
    )


def _owl_video(size: Size) -> OwlConfig:
    return _owl(size, temporal=True)


def _owl_bloomz(size: Size) -> OwlConfig:
    return OwlConfig(
        vision_config=OwlVisionConfig(**size.vision),
        abstractor_config=OwlAbstractorConfig(**{"attention_dropout": 0.1, **size.abstractor}),
        text_config=BloomConfig(tie_word_embeddings=True, **size.bloom),
    )


def _owl2(size: Size, temporal: bool = False) -> OwlConfig:
    vision = OwlVisionConfig(temporal=temporal, **{"image_size": 448, **size.vision})
    return OwlConfig(
        vision_config=vision,
        abstractor_config=OwlAbstractorConfig(position_grid=vision.grid, temporal=temporal, **size.abstractor),
        text_config=AdaptiveLlamaConfig(**{"pad_token_id": 0, "rms_norm_eps": 1e-5, **size.llama}),
    )


def _owl2_1(size: Size) -> OwlConfig:
    vision = OwlVisionConfig(hidden_act="gelu", use_cls_token=False, use_post_layernorm=False, **size.bigg)
    width = {"hidden_size": vision.hidden_size, **size.abstractor}
    return OwlConfig(
        vision_config=vision,
        abstractor_config=OwlAbstractorConfig(position_grid=vision.grid, use_cls_token=False, **width),
        text_config=Qwen1Config(**size.qwen),
    )


# released name, tiny name, configuration, prompt format, image rule, repository, summary
_TABLE = (
    ("owl-7b", "tiny-owl", _owl, "owl", "square", "MAGAer13/mplug-owl-llama-7b", "mPLUG-Owl: ViT-L/14 at 224, LLaMA-1"),
    (
        *("owl-7b-video", "tiny-owl-video", _owl_video, "owl", "crop", "MAGAer13/mplug-owl-llama-7b-video"),
        "mPLUG-Owl for video: temporal layers and queries, LLaMA-1",
    ),
    (
        *(
            "owl-bloomz-7b",
            "tiny-owl-bloomz",
            _owl_bloomz,
            "owl",
            "square",
            "MAGAer13/mplug-owl-bloomz-7b-multilingual",
        ),
        "mPLUG-Owl on BLOOMZ, multilingual",
    ),
    (
        *("owl2-7b", "tiny-owl2", _owl2, "owl2", "resize", "MAGAer13/mplug-owl2-llama2-7b"),
        "mPLUG-Owl2: ViT-L/14 at 448, modality-adaptive LLaMA-2",
    ),
    (
        *("owl2.1", "tiny-owl2.1", _owl2_1, "owl2.1", "resize", "Mizukiluke/mplug_owl_2_1"),
        "mPLUG-Owl2.1: OpenCLIP ViT at 448, modality-adaptive Qwen-1",
    ),
)

# name, configuration, trained weights here or not, summary
_OWLETS = (
    (
        "owlet",
        partial(_owl2, MIDDLE, temporal=True),
        True,
        "the owlet: Owl2's decoder, Owl video's eyes, for any machine",
    ),
    ("owlet-nano", partial(_owl2, NANO), False, "a smaller owlet for studies, Owl2 style"),
    ("owlet-nano-plain", partial(_owl, NANO), False, "a smaller owlet for studies, Owl style"),
)


def _rows() -> Iterator[Family]:
    for name, tiny_name, make, prompt, aspect, repository, summary in _TABLE:
        yield Family(name, summary, partial(make, FULL), prompt, aspect, repository)
        yield Family(tiny_name, f"{summary}; tiny, random weights", partial(make, TINY), prompt, aspect)
    for name, config, trained, summary in _OWLETS:
        weights = OWLET if trained else None
        yield Family(name, summary, config, "owlet", "square", tokenizer=owlet_tokenizer, weights=weights)


FAMILIES: dict[str, Family] = {row.name: row for row in _rows()}


def family(name: str) -> Family:
    """The row called `name`, or an error that suggests one."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}") from None


def make_processor(config: OwlConfig, tokenizer: PreTrainedTokenizerFast, prompt: str, aspect: str) -> OwlProcessor:
    """The processor a model of this configuration was trained with."""
    side = config.vision_config.image_size
    return OwlProcessor.for_format(
        prompt,
        OwlImageProcessorPil(size={"height": side, "width": side}, aspect=aspect),
        tokenizer,
        image_token_id=config.image_token_id,
        media_length=config.media_length,
        temporal=config.vision_config.temporal,
    )


def build(
    name: str, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    """A randomly initialised owl of family `name` with its processor.

    The global random state is left as it was.
    """
    processor, config = build_processor(name), family(name).config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OwlForConditionalGeneration(config).to(device=device, dtype=dtype).eval()
    return model, processor


def build_processor(name: str) -> OwlProcessor:
    """The processor of a family with a tokenizer of its own; the released ones have theirs beside their weights."""
    row = family(name)
    if row.repository is not None:
        raise ConfigError(
            f"{name!r} is a released size without a tokenizer of its own; open its weights with "
            f"{row.repository!r}, or build one of the tiny twins (tiny-owl, tiny-owl2 ...)"
        )
    return make_processor(row.config(), row.tokenizer(), row.prompt, row.aspect)
