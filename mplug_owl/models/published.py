"""The released checkpoints: what their files are called, what their configurations mean, how they become ours.

A published folder is opened in three steps: read shapes without reading data, translate config.json while trusting the
tensors wherever the two are known to disagree, then hand every tensor, once, to the model under its native name. What
was derived or ignored is written into a `LoadReport`. A tensor that is missing and cannot be derived is an error,
never a random initialisation, and so is any other contradiction.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from mplug_owl.errors import CheckpointError
from mplug_owl.models.abstractor import compute_tables
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.families import FAMILIES, make_processor
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.layouts import ABSTRACTOR_PREFIX, LAYOUTS, VISION_PREFIX, published_name, translate
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import bloom_tokenizer, llama_tokenizer, qwen_tokenizer

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")

# Buffers that old Transformers versions stored and every version can compute.
COMPUTED = re.compile(r"(rotary_emb\.inv_freq|masked_bias|attn\.bias|position_ids|logn_tensor)$")


@dataclass
class LoadReport:
    """What opening a published folder took, in sentences."""

    source: str
    layout: str
    derived: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: published {self.layout} layout"]
        lines += [f"  derived: {line}" for line in self.derived]
        lines += [f"  ignored: {line}" for line in self.ignored]
        if len(lines) == 1:
            lines.append("  config.json and tensors agree; nothing was derived or ignored")
        return "\n".join(lines)


def settle(config: OwlConfig, checkpoint: Checkpoint, layout: str, report: LoadReport) -> None:
    """Correct `config` in place where the tensors decide.

    They decide on vocabulary rows, abstractor FFN width, cls and position rows, video, adaptivity.
    """
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config

    def decide(owner: PreTrainedConfig, name: str, value: Any, tensor: str) -> None:
        said = getattr(owner, name)
        if said != value:
            setattr(owner, name, value)
            report.derived.append(f"{name} = {value} from {tensor!r} (config.json means {said})")

    cls = VISION_PREFIX[layout] + "embeddings.cls_token"
    decide(vision, "use_cls_token", cls in checkpoint, cls)
    decide(abstractor, "use_cls_token", cls in checkpoint, cls)
    table = VISION_PREFIX[layout] + "embeddings.position_embedding"
    if not vision.use_cls_token and table in checkpoint:
        decide(vision, "position_rows", checkpoint.shape(table)[0], table)
    if layout == "owl":
        temporal = "temporal_query_tokens"
        decide(vision, "temporal", temporal in checkpoint, temporal)
        abstractor.temporal = vision.temporal
    gate = ABSTRACTOR_PREFIX[layout] + "encoder.layers.0.crossattention.output.mlp.w1.weight"
    if gate in checkpoint:
        decide(abstractor, "intermediate_size", checkpoint.shape(gate)[0], gate)
    if layout == "owl2.1":
        split = "transformer.h.0.attn.c_attn.multiway.1.weight"
        decide(text, "adaptive", split in checkpoint, split)
    embedding = published_name(_embedding(config), config, layout)
    if embedding in checkpoint:
        decide(text, "vocab_size", checkpoint.shape(embedding)[0], embedding)
    config.image_token_id, config.video_token_id = text.vocab_size, text.vocab_size + 1


def _embedding(config: OwlConfig) -> str:
    name = "word_embeddings" if config.text_config.model_type == "bloom" else "embed_tokens"
    return f"model.language_model.{name}.weight"


def match(config: OwlConfig, checkpoint: Checkpoint, layout: str, report: LoadReport) -> dict[str, Any]:
    """Native name -> unread tensor for the whole model, or an error naming what does not fit."""
    with torch.device("meta"):
        wanted = OwlForConditionalGeneration(config).state_dict()
    names = {native: published_name(native, config, layout) for native in wanted}
    found = {native: checkpoint[name] for native, name in names.items() if name in checkpoint}
    computed = {n: t for n, t in position_tables(config).items() if n not in found}
    if computed:
        report.derived.append(f"{len(computed)} position tables of the abstractor, computed (they are never trained)")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()

    def refuse(problem: str, cure: str) -> CheckpointError:
        return CheckpointError(f"{checkpoint.folder}: {problem}; {cure}")

    missing = [names[n] for n in wanted if n not in {*found, *computed, *tied}]
    if missing:
        raise refuse(
            f"{len(missing)} tensor(s) missing that cannot be derived, first {missing[0]!r}",
            "expected the complete published checkpoint: download it again",
        )
    for native in found:
        shape, expected = checkpoint.shape(names[native]), tuple(wanted[native].shape)
        if shape != expected:
            raise refuse(
                f"{names[native]!r} has shape {list(shape)}, but config.json asks for {list(expected)}",
                "mend config.json or take all files from one release",
            )
    spare = sorted(set(checkpoint) - set(names.values()))
    buffers = [name for name in spare if COMPUTED.search(name)]
    unknown = [name for name in spare if name not in buffers]
    if unknown:
        raise refuse(
            f"{len(unknown)} tensor(s) that config.json has no place for, first {unknown[0]!r}",
            "mend config.json (layers, queries ...) or take all files from one release",
        )
    if buffers:
        report.ignored.append(f"{len(buffers)} buffer(s) such as {buffers[0]!r}, computed here")
    return computed | {n: tensor for n, tensor in found.items() if n not in tied}


def position_tables(config: OwlConfig) -> dict[str, torch.Tensor]:
    """The abstractor's position tables by native name, computed; alike in every layer."""
    tables = {}
    if config.abstractor_config.position_grid is not None:
        queries, keys = compute_tables(config.abstractor_config, torch.device("cpu"))
        for i in range(config.abstractor_config.num_hidden_layers):
            stem = f"model.abstractor.layers.{i}.attention."
            tables[stem + "q_pos_embed"], tables[stem + "k_pos_embed"] = (queries.clone(), keys.clone())
    return tables


def open_published(folder: Path, raw: dict[str, Any]) -> tuple[OwlConfig, dict[str, Any], Checkpoint, LoadReport]:
    """The settled configuration and the unread tensors of a published folder."""
    layout = LAYOUTS[raw["model_type"]]
    report = LoadReport(source=str(folder), layout=layout)
    checkpoint = Checkpoint(folder)
    config = translate(raw)
    settle(config, checkpoint, layout, report)
    return config, match(config, checkpoint, layout, report), checkpoint, report


class PublishedConfig(OwlConfig):
    """Reads a published config.json; `AutoConfig` finds it by model_type and returns our fields."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        fields = translate(config_dict | {"model_type": cls.model_type}).to_dict()
        return super().from_dict(fields | {"model_type": cls.model_type}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Written down, the fields are ours, and so is the layout."""
        return super().to_dict() | {"model_type": OwlConfig.model_type}


class PublishedOwl(OwlForConditionalGeneration):
    """Opens a published folder; what comes back is an `OwlForConditionalGeneration` and is saved as one."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        hub = {k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
        config = kwargs.pop("config", None)  # the one AutoConfig read has not seen the tensors
        if config is not None and config._attn_implementation is not None:
            kwargs.setdefault("attn_implementation", config._attn_implementation)
        return load_published(resolve_folder(name_or_path, **hub), **kwargs)[0]


class PublishedProcessor(OwlProcessor):
    """Opens the processor files of a published folder; what comes back is an `OwlProcessor`."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> OwlProcessor:
        hub = {k: kwargs[k] for k in HUB_ARGUMENTS if k in kwargs}
        folder = resolve_folder(name_or_path, **hub)
        raw = read_config(folder)
        config, _, _, report = open_published(folder, raw)
        return published_processor(folder, raw, config, report)


def _alias(model_type: str) -> tuple[type[OwlConfig], type[OwlForConditionalGeneration]]:
    stem = "Published" + "".join(part.capitalize() for part in re.split("[-_]", model_type))
    config = type(f"{stem}Config", (PublishedConfig,), {"model_type": model_type, "__module__": __name__})
    model = type(stem, (PublishedOwl,), {"config_class": config, "__module__": __name__})
    return config, model


ALIASES = [_alias(model_type) for model_type in LAYOUTS]


def published_processor(folder: Path, raw: dict[str, Any], config: OwlConfig, report: LoadReport) -> OwlProcessor:
    """Tokenizer and image rule of a published folder, under the layout's own prompt format."""
    if report.layout == "owl2.1":
        tokenizer = qwen_tokenizer(folder)
    elif config.text_config.model_type == "bloom":
        tokenizer = bloom_tokenizer(folder)
    else:
        tokenizer = llama_tokenizer(folder)
    aspect = "crop" if config.vision_config.temporal else "square"
    if report.layout != "owl":
        aspect = raw.get("image_aspect_ratio")
        if aspect not in ("pad", "resize"):
            said = f"image_aspect_ratio={aspect!r}" if aspect else "no image_aspect_ratio"
            report.derived.append(f"pictures resized to a square, as recommended ({said} in config.json)")
            aspect = "resize"
    processor = make_processor(config, tokenizer, report.layout, aspect)
    rule = folder / "preprocessor_config.json"
    if rule.is_file():
        processor.image_processor = read_image_rule(rule, aspect, config.vision_config.image_size)
    else:
        report.derived.append("the image rule of CLIP (there is no preprocessor_config.json)")
    return processor


def read_image_rule(path: Path, aspect: str, side: int) -> OwlImageProcessorPil:
    """preprocessor_config.json, which must make pictures of the side the vision model takes."""
    try:
        rule = OwlImageProcessorPil.from_clip_config(json.loads(path.read_text()), aspect)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if rule.size["height"] != side:
        raise CheckpointError(
            f"{path} makes pictures of {rule.size['height']} pixels, but the vision model takes "
            f"{side}; take all files from one release"
        )
    return rule


def load_published(
    folder: Path, dtype: torch.dtype | str = "auto", **kwargs: Any
) -> tuple[OwlForConditionalGeneration, LoadReport]:
    """Open a published folder; `dtype="auto"` keeps that of the files.

    `kwargs` go to the library's `from_pretrained`.
    """
    config, tensors, checkpoint, report = open_published(folder, read_config(folder))
    if dtype == "auto":
        dtype = checkpoint.dtype(published_name(_embedding(config), config, report.layout))
    model = OwlForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, **kwargs)
    return model, report


def convert(source: str | Path, out: str | Path, *, dtype: torch.dtype | str = "auto", **hub: Any) -> LoadReport:
    """Write a published checkpoint as a native folder, model and processor.

    Raises: CheckpointError if `source` is no published checkpoint or `out` holds files already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{str(out)!r} exists and is not empty; give a new folder")
    if str(source) in FAMILIES:
        raise CheckpointError(
            f"{str(source)!r} is a family, not a checkpoint; give a published folder or a hub name "
            f"such as {FAMILIES['owl2-7b'].repository!r}"
        )
    folder = resolve_folder(source, **hub)
    raw = read_config(folder)
    if raw["model_type"] not in LAYOUTS:
        raise CheckpointError(
            f"{folder} has model_type {raw['model_type']!r}; expected a published checkpoint: {', '.join(LAYOUTS)}"
        )
    model, report = load_published(folder, dtype)
    processor = published_processor(folder, raw, model.config, report)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return report
