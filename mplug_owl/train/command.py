"""`owl train`: the recipe, the plan, then the run. Parses and prints; the work is in loop.py."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mplug_owl import settings
from mplug_owl.train import recipe as recipes
from mplug_owl.train import sequence
from mplug_owl.train.recipe import Recipe

if TYPE_CHECKING:
    from mplug_owl.train.loop import Speed

STOPPED = 128 + 15  # what a shell calls a process that SIGTERM ended: a scheduler may start it again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped recipe or sequence of recipes, or a TOML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="name=value",
        help="as optim.steps=100; for one stage of a sequence, STAGE:optim.steps=100",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, train nothing")
    parser.add_argument("--new", action="store_true", help="refuse to go on with a run that DIR already holds")
    parser.add_argument("--gpu", metavar="KIND", help="the GPU of the plan (default: the one here)")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the run is done, 143 when a signal stopped it."""
    if sequence.is_sequence(arguments.recipe):
        stages = sequence.load(arguments.recipe, arguments.overrides)
    else:
        stages = [recipes.load(arguments.recipe, tuple(arguments.overrides))]
    if arguments.dry_run:
        for stage in stages:
            print(settings.dump(stage), end="")
            plan_of(stage, arguments.gpu, show=True)
        return 0
    out: Path = arguments.out
    if len(stages) == 1:
        owl, runs = carry_out(stages[0], out, arguments), [out]
    else:
        owl = sequence.run(stages, out, lambda stage, folder: carry_out(stage, folder, arguments))
        runs = [out / stage.name for stage in stages]
    if owl is None:
        return STOPPED
    if is_first():
        from mplug_owl.train import curve

        curve.draw(runs, out / "curve.png")
        print(f"{owl}, and how it got there: {out / 'curve.png'}")
    return 0


def is_first() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def carry_out(recipe: Recipe, out: Path, arguments: argparse.Namespace) -> Path | None:
    """Plan and run one recipe; its result, or None where a signal stopped it."""
    recipe.refuse_placeholders()
    speed = plan_of(recipe, arguments.gpu, show=is_first())
    from mplug_owl.train import loop

    return loop.run(recipe, out, resume=not arguments.new, speed=speed).saved


def plan_of(recipe: Recipe, gpu: str | None, *, show: bool) -> "Speed | None":
    """Print the plan for the machine here (or for GPUs of a kind); what MFU is measured against."""
    from mplug_owl.train.hardware import accelerator
    from mplug_owl.train.loop import Speed
    from mplug_owl.train.plan import plan

    kind = gpu or accelerator_here()
    if kind is None:
        print("no plan: this GPU is in no table; name one with --gpu", file=sys.stderr)
        return None
    made = plan(recipe, gpus=int(os.environ.get("WORLD_SIZE", 1)), gpu=kind)
    if show:
        print(made, flush=True)
    tokens = made.batch * made.shape.length
    return Speed(made.step_flops / tokens, accelerator(kind).peak[recipe.compute.dtype])


def accelerator_here() -> str | None:
    """The row of the plan's table for this machine's GPU, or for its CPU where there is none."""
    import torch

    from mplug_owl.train.hardware import ACCELERATORS

    if not torch.cuda.is_available():
        return "CPU"
    name = torch.cuda.get_device_name().replace(" ", "").upper()
    fits = (k for k in ACCELERATORS if all(part.upper() in name for part in k.split("-")))
    return next(fits, None)
