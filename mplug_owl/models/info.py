"""What a model is, without loading it: `describe` fills the card that `owl info` prints.

Everything comes from configurations, file headers and a model on the meta device; no weight is read or made. How fast
or how good a model is, it does not know.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import nn
from transformers.utils.chat_template_utils import render_jinja_template

from mplug_owl.errors import CheckpointError, did_you_mean
from mplug_owl.models.checkpoint import Checkpoint, read_config, resolve_folder
from mplug_owl.models.families import FAMILIES, family
from mplug_owl.models.layouts import LAYOUTS
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.published import open_published
from mplug_owl.models.templates import FORMATS
from mplug_owl.models.towers import OwlTowerConfig

EXAMPLE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}]


@dataclass(frozen=True)
class ModuleCard:
    name: str
    what: str
    parameters: int


@dataclass(frozen=True)
class Card:
    """All that `owl info` says; `str(card)` says it in words."""

    name: str
    origin: str
    modules: list[ModuleCard]
    parameters: int
    dtypes: dict[str, int]
    """Values stored in each dtype, buffers included; empty where there is no file."""
    memory: dict[str, int]
    """Bytes of the weights in float32, bfloat16 and int8."""
    image_size: int
    positions_per_image: int
    positions_per_frame: int | None
    """None where a video, however long, takes the positions of one image."""
    video: str
    templates: list[str]
    prompt: str
    report: str | None

    def __str__(self) -> str:
        width = max(len(module.what) for module in self.modules)
        rows = [f"  {m.name:<11}{m.what:<{width}} {m.parameters:>15,}" for m in self.modules]
        rows.append(f"  {'all':<11}{'':<{width}} {self.parameters:>15,}")
        stored = ", ".join(f"{count:,} {name}" for name, count in self.dtypes.items())
        memory = "   ".join(f"{name} {_readable(size)}" for name, size in self.memory.items())
        prompt = textwrap.fill(repr(self.prompt), 98, initial_indent="prompt      ", subsequent_indent=" " * 12)
        lines = [
            f"{self.name}: {self.origin}",
            "",
            "parameters",
            *rows,
            "",
            f"stored      {stored or 'nothing yet: weights would be random'}",
            f"memory      {memory}",
            "            weights only; int8 is that of every linear layer, the rest in bfloat16",
            f"image       {self.image_size} x {self.image_size}, "
            f"{self.positions_per_image} positions in the language model",
            f"video       {self.video}",
            f"templates   {', '.join(self.templates)}",
            prompt,
            *(["", self.report] if self.report else []),
        ]
        return "\n".join(lines)


def describe(name_or_path: str | Path) -> Card:
    """The card of a family, a native folder or a published one.

    Raises:
        CheckpointError: the folder is no owl, or contradicts itself.
    """
    name = str(name_or_path)
    if name in FAMILIES:
        row = FAMILIES[name]
        released = f"; released as {row.repository}" if row.repository else ""
        checkpoint = Checkpoint(row.weights) if row.is_trained else None
        templates = FORMATS[row.prompt].templates
        return _prompted(_card(name, row.summary + released, row.config(), templates, checkpoint), templates)
    if "/" not in name and not Path(name).exists():
        family(name)  # it knows what was meant
    folder = resolve_folder(name_or_path)
    raw = read_config(folder)
    kind = raw["model_type"]
    if kind in LAYOUTS:
        config, _, checkpoint, report = open_published(folder, raw)
        templates = FORMATS[report.layout].templates
        return _prompted(
            _card(name, f"published {report.layout} layout", config, templates, checkpoint, str(report)), templates
        )
    if kind != OwlConfig.model_type:
        known = (OwlConfig.model_type, *LAYOUTS)
        raise CheckpointError(f"{folder} is no owl: model_type {kind!r}{did_you_mean(kind, known)}")
    processor = OwlProcessor.from_pretrained(folder)
    prompt, _ = processor.render(EXAMPLE, add_generation_prompt=True)
    card = _card(name, "native layout", OwlConfig.from_pretrained(folder), processor.templates, Checkpoint(folder))
    return replace(card, prompt=prompt)


def _prompted(card: Card, templates: Mapping[str, str]) -> Card:
    """The card with the prompt of a format whose tokenizer is not here."""
    prompts, _ = render_jinja_template(
        conversations=[EXAMPLE], chat_template=templates["default"], add_generation_prompt=True
    )
    return replace(card, prompt=prompts[0])


def _card(
    name: str,
    origin: str,
    config: OwlConfig,
    templates: Mapping[str, str],
    checkpoint: Checkpoint | None = None,
    report: str | None = None,
) -> Card:
    """All but the prompt."""
    with torch.device("meta"):
        model = OwlForConditionalGeneration(config)
        model.tie_weights()
    modules = _modules(model)
    rows = config.media_length
    frame, counted = rows, f"{rows} positions a frame: each sampled frame counts as an image"
    if config.vision_config.temporal:
        frame, counted = None, f"{rows} positions, however many frames: the temporal branch sums them up"
    return Card(
        name=name,
        origin=origin,
        modules=modules,
        parameters=sum(module.parameters for module in modules),
        dtypes=_dtypes(checkpoint) if checkpoint else {},
        memory=_memory(model),
        image_size=config.vision_config.image_size,
        positions_per_image=rows,
        positions_per_frame=frame,
        video=counted,
        templates=sorted(templates),
        prompt="",
        report=report,
    )


def _modules(model: OwlForConditionalGeneration) -> list[ModuleCard]:
    config = model.config
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config
    owl, decoder = model.model, type(text).__name__.removesuffix("Config")
    time = ", temporal" if vision.temporal else ""
    head = "" if config.tie_word_embeddings else "; head"
    tower = f"{vision.tower_config.model_type}, {vision.features} of " if isinstance(vision, OwlTowerConfig) else ""
    f_v = f"{tower}{vision.num_hidden_layers} layers, {vision.hidden_size} wide, {vision.num_tokens} tokens{time}"
    f_k = f"{abstractor.summary}{time}"
    f_l = f"{decoder}, {text.num_hidden_layers} layers, {text.hidden_size} wide, {text.vocab_size} words{head}"
    language = {*owl.language_model.parameters(), *model.lm_head.parameters()}  # a tied head is counted once
    return [
        ModuleCard("vision", f"f_V: {f_v}", owl.vision.num_parameters()),
        ModuleCard("abstractor", f"f_K: {f_k}", owl.abstractor.num_parameters()),
        ModuleCard("language", f"f_L: {f_l}", sum(weight.numel() for weight in language)),
    ]


def _dtypes(checkpoint: Checkpoint) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name in checkpoint:
        counts[str(checkpoint.dtype(name)).removeprefix("torch.")] += prod(checkpoint.shape(name))
    return dict(counts)


def _readable(size: int) -> str:
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{size / unit:.1f} {name}"


def _memory(model: OwlForConditionalGeneration) -> dict[str, int]:
    """Bytes of the weights; int8 keeps one bfloat16 scale for each row of a linear layer."""
    count = model.num_parameters()
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    saved = sum(weight.numel() - 2 * weight.shape[0] for weight in linear)
    return {"float32": 4 * count, "bfloat16": 2 * count, "int8": 2 * count - saved}
