"""The families of the papers as rows of one table: a configuration, a prompt format, an image rule.

`build` makes a randomly initialised owl of any family. The `tiny-*` rows are the same architectures small enough for
tests and demonstrations; they bring a byte-level tokenizer, so they need no file at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import BloomConfig, LlamaConfig, PreTrainedConfig

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.models.abstractor import OwlAbstractorConfig
from mplug_owl.models.adaptive import AdaptiveLlamaConfig
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.qwen1 import Qwen1Config
from mplug_owl.models.tokenizers import byte_tokenizer
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


def _vit_l(**changes: object) -> OwlVisionConfig:
    return OwlVisionConfig(**changes)


def _vit_bigg() -> OwlVisionConfig:
    """OpenCLIP bigG without cls, at 448: what the tensors of Owl2.1 are believed to hold."""
    return OwlVisionConfig(
        hidden_size=1664,
        intermediate_size=8192,
        num_hidden_layers=48,
        num_attention_heads=16,
        image_size=448,
        hidden_act="gelu",
        use_cls_token=False,
        use_post_layernorm=False,
    )


def _llama_7b(cls: type[LlamaConfig] = LlamaConfig, **changes: object) -> LlamaConfig:
    return cls(pad_token_id=0, bos_token_id=1, eos_token_id=2, **changes)


def _owl_7b() -> OwlConfig:
    return OwlConfig(
        vision_config=_vit_l(),
        abstractor_config=OwlAbstractorConfig(attention_dropout=0.1),
        text_config=_llama_7b(),
    )


def _owl_7b_video() -> OwlConfig:
    return OwlConfig(
        vision_config=_vit_l(temporal=True),
        abstractor_config=OwlAbstractorConfig(attention_dropout=0.1, temporal=True),
        text_config=_llama_7b(),
    )


def _owl_bloomz_7b() -> OwlConfig:
    return OwlConfig(
        vision_config=_vit_l(),
        abstractor_config=OwlAbstractorConfig(attention_dropout=0.1),
        text_config=BloomConfig(
            vocab_size=250880, hidden_size=4096, n_layer=30, n_head=32, pad_token_id=3, tie_word_embeddings=True
        ),
    )


def _owl2_7b() -> OwlConfig:
    return OwlConfig(
        vision_config=_vit_l(image_size=448),
        abstractor_config=OwlAbstractorConfig(position_grid=32),
        text_config=_llama_7b(AdaptiveLlamaConfig, rms_norm_eps=1e-5),
    )


def _owl2_1() -> OwlConfig:
    vision = _vit_bigg()
    return OwlConfig(
        vision_config=vision,
        abstractor_config=OwlAbstractorConfig(hidden_size=vision.hidden_size, position_grid=32, use_cls_token=False),
        text_config=Qwen1Config(vocab_size=151851, eos_token_id=151643, pad_token_id=151643),
    )


def tiny(config: OwlConfig, vocab_size: int) -> OwlConfig:
    """The same architecture at a size that a test can train: widths of 64, two layers each, 56-pixel pictures."""
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 56, "patch_size": 14, "layer_norm_eps": 1e-5}
    abstractor = vision | {"num_queries": 8, "output_size": 64, "attention_dropout": 0.0}
    if config.abstractor_config.position_grid is not None:
        abstractor["position_grid"] = vision["image_size"] // vision["patch_size"]
    text = {"vocab_size": vocab_size, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if isinstance(config.text_config, BloomConfig):
        text = {"vocab_size": vocab_size, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    elif isinstance(config.text_config, Qwen1Config):
        text |= {"intermediate_size": 128, "head_dim": 16, "max_position_embeddings": 2048, "seq_length": 1024}
    else:
        text |= {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

    def resized(part: PreTrainedConfig, changes: dict) -> PreTrainedConfig:
        known = {key: value for key, value in changes.items() if key in type(part).__dataclass_fields__}
        return type(part)(**(part.to_dict() | known | changes if isinstance(part, BloomConfig) else part.to_dict() | known))

    return OwlConfig(
        vision_config=resized(config.vision_config, vision),
        abstractor_config=resized(config.abstractor_config, abstractor),
        text_config=resized(config.text_config, text),
    )


_FULL = (
    Family("owl-7b", "mPLUG-Owl: CLIP ViT-L/14 224, LLaMA-1 7B", _owl_7b, "owl", "square", "MAGAer13/mplug-owl-llama-7b"),
    Family(
        "owl-7b-video",
        "mPLUG-Owl with temporal branch and queries for video",
        _owl_7b_video,
        "owl",
        "crop",
        "MAGAer13/mplug-owl-llama-7b-video",
    ),
    Family(
        "owl-bloomz-7b",
        "mPLUG-Owl on BLOOMZ 7B, multilingual",
        _owl_bloomz_7b,
        "owl",
        "square",
        "MAGAer13/mplug-owl-bloomz-7b-multilingual",
    ),
    Family(
        "owl2-7b",
        "mPLUG-Owl2: ViT-L/14 448, modality-adaptive LLaMA-2 7B",
        _owl2_7b,
        "owl2",
        "resize",
        "MAGAer13/mplug-owl2-llama2-7b",
    ),
    Family(
        "owl2.1",
        "mPLUG-Owl2.1: OpenCLIP ViT 448, modality-adaptive Qwen-1 7B",
        _owl2_1,
        "owl2.1",
        "resize",
        "Mizukiluke/mplug_owl_2_1",
    ),
)


def _tiny_row(family: Family) -> Family:
    def config() -> OwlConfig:
        return tiny(family.config(), len(byte_tokenizer()))

    name = "tiny-" + family.name.replace("-7b", "")
    return replace(family, name=name, summary=f"{family.name} at a few hundred thousand parameters", config=config, repository=None)


FAMILIES: dict[str, Family] = {f.name: f for f in (*_FULL, *map(_tiny_row, _FULL))}


def family(name: str) -> Family:
    """The row called `name`, or an error that suggests one."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}") from None


def build(
    name: str, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    """A randomly initialised owl of family `name` with its processor; the global random state is left as it was."""
    row = family(name)
    if not name.startswith("tiny-"):
        raise ConfigError(
            f"{name!r} has no tokenizer of its own; open released weights ({row.repository}) or build {'tiny-' + name.replace('-7b', '')!r}"
        )
    config = row.config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OwlForConditionalGeneration(config).to(device=device, dtype=dtype).eval()
    return model, OwlProcessor.for_family(config, byte_tokenizer(), row.prompt, row.aspect)
