"""The plan before the run: what a recipe trains, computes, keeps in memory, and how long it takes.

`plan` builds the recipe's model without weights, rehearses one full micro-batch and scales that to the step, the GPU
and the run. It reads no data: rows count as full, so memory and time are upper bounds; the doctor tells how full they
are. `str(plan)` is what `owl plan` prints.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, cast

import torch

from mplug_owl import settings
from mplug_owl.errors import ConfigError
from mplug_owl.models import parts
from mplug_owl.models.checkpoint import read_config
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.published import open_published
from mplug_owl.models.vision import OwlVisionConfig
from mplug_owl.train import recipe as recipes
from mplug_owl.train import stages
from mplug_owl.train.hardware import ACCELERATORS, accelerator
from mplug_owl.train.plan_table import table
from mplug_owl.train.recipe import MODULES, Init, Recipe
from mplug_owl.train.rehearsal import PARTS, Shape, Trace, Work, rehearse
from mplug_owl.train.residents import residents, shards

PARTS_OF_INIT = ("vision", "language", "connector", "features", "cls", "image_size", "queries", "adaptive")
OPTIMIZER_TRAFFIC = 7  # words AdamW moves per parameter: reads weight, gradient and two moments


@dataclass(frozen=True)
class Setting:
    """What the plan must be told beside the recipe."""

    gpus: int = 1
    gpu: str = "H200"
    mfu: float = 0.4
    """Share of the peak that the model's own FLOPs reach; those that checkpointing repeats come on top, as fast."""
    length: int | None = None
    """Positions of a row; the recipe's longest unless given."""
    media: int | None = None
    """Pictures or videos of a row; as many as a packed row may hold, or one, unless given."""
    frames: int = 1
    """More than one makes each medium a video of so many frames."""
    epoch_rows: int | None = None
    """Rows of one epoch, for a recipe that counts in epochs."""

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.frames < 1 or not 0 < self.mfu <= 1:
            raise ConfigError(
                f"gpus={self.gpus}, frames={self.frames}, mfu={self.mfu}; expected at least 1 GPU, "
                "at least 1 frame and 0 < mfu <= 1"
            )
        accelerator(self.gpu)


@dataclass(frozen=True)
class Module:
    parameters: int
    trained: int


@dataclass(frozen=True)
class Remedy:
    """The cheapest change that fits, or else the one that comes closest."""

    gpus: int
    overrides: tuple[str, ...]
    memory: int
    fits: bool
    hours: float | None


@dataclass(frozen=True)
class Plan:
    recipe: str
    setting: Setting
    parallel: str
    dtype: str
    shape: Shape
    """One micro-batch of one GPU."""
    batch: int
    """Rows of a step, all GPUs together."""
    accumulate: int
    """Micro-batches of a GPU between two steps."""
    modules: dict[str, Module]
    flops: dict[str, Work]
    """Of one step, all GPUs together: linear layers and convolutions by part, and attention."""
    memory: dict[str, int]
    """Bytes of tensors on one GPU at the worst moment, by kind."""
    available: int
    """Bytes that one GPU has for tensors."""
    step_seconds: float
    steps: int | None
    positions: int | None
    """Positions of the run, those of media included."""
    samples: int | None
    """Samples of the run; in packed rows every picture or video counts as one."""
    media: int | None
    assumed: str | None = None
    """Parts of the start that are not here, and what they were taken for."""
    remedy: Remedy | None = None
    """Only where the plan does not fit."""

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.total_memory <= self.available

    @property
    def step_flops(self) -> int:
        """Without what is computed a second time: the numerator of MFU."""
        return sum(work.forward + work.backward for work in self.flops.values())

    @property
    def hours(self) -> float | None:
        return None if self.steps is None else self.steps * self.step_seconds / 3600

    def to_json(self) -> str:
        totals = {name: getattr(self, name) for name in ("step_flops", "total_memory", "fits", "hours")}
        return json.dumps(dataclasses.asdict(self) | totals, indent=2)

    def __str__(self) -> str:
        return table(self)


def plan(recipe: Recipe, gpus: int = 1, gpu: str = "H200", **options: Any) -> Plan:
    """The plan of `recipe` on so many GPUs of one kind; `options` are fields of `Setting`."""
    setting = Setting(gpus=gpus, gpu=gpu, **options)
    made = _plan(recipe, setting)
    return made if made.fits else replace(made, remedy=_remedy(recipe, setting))


def _plan(recipe: Recipe, setting: Setting) -> Plan:
    model, dtype = _weightless(recipe), getattr(torch, recipe.compute.dtype)
    modules = _modules(model)  # before the rehearsal, which leaves fakes behind
    resident = residents(model, shards(recipe.compute, setting.gpus), dtype)
    shape = _shape(recipe, setting, model.config)
    trace = rehearse(model, shape, dtype)
    batch, share = recipe.batch.size, recipe.data.multimodal_share
    share = 1.0 if share is None else share
    flops = _step_work(trace, batch / shape.rows, share)
    steps = _steps(recipe, setting)
    shown = round(batch * shape.media * share)
    return Plan(
        recipe=recipe.name,
        setting=setting,
        parallel=recipe.compute.parallel,
        dtype=recipe.compute.dtype,
        shape=shape,
        batch=batch,
        accumulate=ceil(batch / (setting.gpus * shape.rows)),
        modules=modules,
        flops=flops,
        memory={kind: size for kind, size in (resident | trace.peak).items() if size},
        available=accelerator(setting.gpu).room,
        step_seconds=_seconds(flops, resident["optimizer state"], recipe, setting),
        steps=steps,
        positions=steps and steps * batch * shape.length,
        samples=steps and steps * max(shown if shape.packed else 0, batch),
        media=steps and steps * shown,
        assumed=_assumed(recipe.init),
    )


def _weightless(recipe: Recipe) -> OwlForConditionalGeneration:
    """The recipe's model on the meta device, frozen and adapted as the run will have it."""
    with torch.device("meta"):
        model = OwlForConditionalGeneration(_configuration(recipe.init))
        model.tie_weights()
        stages.prepare(model, recipe)
    if recipe.compute.checkpoint_activations:
        model.activation_checkpointing_enable()
    return model


def _absent(init: Init) -> dict[str, str]:
    """Parts that are no folder here. A plan downloads nothing: the family stands in for them."""
    named = {"start": init.start, "vision": init.vision, "language": init.language}
    return {part: name for part, name in named.items() if name and not Path(name).is_dir()}


def _assumed(init: Init) -> str | None:
    absent = ", ".join(f"init.{part}={name}" for part, name in _absent(init).items())
    return f"{absent}: not here, so planned with the sizes of {init.family}" if absent else None


def _configuration(init: Init) -> OwlConfig:
    """What `init` will give, from the configuration files that are here."""
    if init.start is not None and init.connector is not None:
        config = _configuration(replace(init, connector=None, queries=None))
        config.abstractor_config = parts.other_connector(config, init.connector, init.queries)
        return config
    absent: dict[str, Any] = dict.fromkeys(_absent(init))
    if init.connector is not None and absent:  # half of an owl is no owl
        absent = dict.fromkeys(("vision", "language", "connector", "features", "cls"))
    init = replace(init, **absent)
    if init.start is None:
        return parts.configuration(init.family, **{field: getattr(init, field) for field in PARTS_OF_INIT})
    folder = Path(init.start)
    raw = read_config(folder)
    native = raw["model_type"] == OwlConfig.model_type
    config = OwlConfig.from_pretrained(folder) if native else open_published(folder, raw)[0]
    vision: Any = config.vision_config
    abstractor: Any = config.abstractor_config
    parts.change(vision, abstractor, init.image_size, init.queries)
    if init.adaptive is not None:
        config.text_config = parts.branched(cast(Any, config.text_config), init.adaptive)
    return config


def _modules(model: OwlForConditionalGeneration) -> dict[str, Module]:
    found = dict.fromkeys(MODULES, Module(0, 0))
    for name, weight in model.named_parameters():
        module, size = stages.module_of(name), weight.numel()
        before = found[module]
        found[module] = Module(before.parameters + size, before.trained + size * weight.requires_grad)
    return {name: module for name, module in found.items() if module.parameters}


def _shape(recipe: Recipe, setting: Setting, config: OwlConfig) -> Shape:
    """One micro-batch. Unless told, a packed row holds all the pictures it may, any other one."""
    if recipe.data.learn == "places":
        return Shape(min(recipe.batch.micro, ceil(recipe.batch.size / setting.gpus)), 1, 1, packed=False, places=True)
    length = setting.length or recipe.data.max_length
    frames, vision = setting.frames, cast(OwlVisionConfig, config.vision_config)
    positions = config.media_length * (1 if vision.temporal else frames)
    room, media = (length - 1) // positions, setting.media  # a row of media alone has nothing to learn
    if media is None:
        media = min(recipe.data.images_per_row if recipe.data.pack else 1, room)
    if media > room:
        raise ConfigError(
            f"media={media} of {positions} positions each do not fit into length={length}: give at most {room}"
        )
    rows = min(recipe.batch.micro, ceil(recipe.batch.size / setting.gpus))
    return Shape(rows, length, media, frames, recipe.data.pack)


def _step_work(trace: Trace, times: float, media_share: float) -> dict[str, Work]:
    """From one micro-batch to the step of all GPUs, in which a share of the rows has media."""
    seen = times * media_share
    factors = {"vision": seen, "abstractor": seen, "language": times, "head": times}
    work = {part: trace.linear[part].scaled(factors[part]) for part in PARTS}
    attention = (trace.attention[part].scaled(factors[part]) for part in PARTS)
    return {**work, "attention": sum(attention, Work())}


def _seconds(flops: dict[str, Work], moments: int, recipe: Recipe, setting: Setting) -> float:
    """Of one step: arithmetic at the stated speed, then the optimizer at the memory's."""
    device = accelerator(setting.gpu)
    speed = setting.gpus * device.peak[recipe.compute.dtype] * setting.mfu
    arithmetic = sum(work.total for work in flops.values()) / speed
    return arithmetic + OPTIMIZER_TRAFFIC * (moments / 2) / device.bandwidth


def _steps(recipe: Recipe, setting: Setting) -> int | None:
    if recipe.optim.epochs is None or setting.epoch_rows is None:
        return recipe.optim.steps
    return ceil(recipe.optim.epochs * setting.epoch_rows / recipe.batch.size)


def _remedy(recipe: Recipe, setting: Setting) -> Remedy:
    """The cheapest change that fits, with the largest micro-batch it allows; else what is closest.

    Smaller micro-batches cost next to nothing, sharding costs traffic, activation checkpointing a third more
    arithmetic, further GPUs money.
    """

    def attempt(micro: int, change: tuple[str, ...], gpus: int = setting.gpus) -> Remedy:
        smaller = (f"batch.micro={micro}",) if micro != recipe.batch.micro else ()
        overrides = (*smaller, *change)
        made = _plan(_changed(recipe, overrides), replace(setting, gpus=gpus))
        return Remedy(gpus, overrides, made.total_memory, made.fits, made.hours)

    compute = recipe.compute
    shard = ("compute.parallel=fsdp",) if compute.parallel == "ddp" else ()
    again = () if compute.checkpoint_activations else ("compute.checkpoint_activations=true",)
    both = (*shard, *again)
    here = ((), shard, again, both) if setting.gpus > 1 else ((), again)
    micros = [recipe.batch.micro]
    while micros[-1] % 2 == 0:
        micros.append(micros[-1] // 2)
    closest: list[Remedy] = []
    for change in dict.fromkeys(here):
        smallest = attempt(micros[-1], change)
        if smallest.fits:
            larger = (attempt(micro, change) for micro in micros[:-1])
            return next((remedy for remedy in larger if remedy.fits), smallest)
        closest.append(smallest)
    for times in (2, 4, 8, 16):
        closest.append(attempt(micros[-1], both, times * setting.gpus))
        if closest[-1].fits:
            return closest[-1]
    return min(closest, key=lambda remedy: remedy.memory)


def _changed(recipe: Recipe, overrides: tuple[str, ...]) -> Recipe:
    tree = dataclasses.asdict(recipe)
    for override in overrides:
        settings.apply_override(tree, override)
    return settings.build(Recipe, tree, recipe.name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped recipe or a TOML file")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="as optim.steps=100")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="all machines together")
    parser.add_argument("--gpu", default="H200", metavar="KIND", help=f"{', '.join(ACCELERATORS)} (default: H200)")
    parser.add_argument("--mfu", type=float, default=0.4, help="expected share of the peak (default: 0.4)")
    parser.add_argument("--length", type=int, metavar="N", help="positions of a row (default: full)")
    parser.add_argument("--media", type=int, metavar="N", help="pictures or videos of a row")
    parser.add_argument("--frames", type=int, default=1, metavar="N", help="frames of a video")
    parser.add_argument("--epoch-rows", type=int, metavar="N", help="rows of an epoch")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """`owl plan`: exit status 0 where the run fits, 1 where it does not."""
    setting = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Setting)}
    made = plan(recipes.load(arguments.recipe, tuple(arguments.overrides)), **setting)
    print(made.to_json() if arguments.json else made)
    return 0 if made.fits else 1
