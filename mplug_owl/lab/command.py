"""`owl lab`: find the study, show it or carry it out, print its page. Parses and prints; the work is in run.py."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from mplug_owl.errors import ConfigError, RequestError
from mplug_owl.lab import study as studies
from mplug_owl.lab.study import Study
from mplug_owl.train.command import STOPPED
from mplug_owl.train.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a shipped study or a TOML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="name=value",
        help="for all recipes, as optim.steps=100; for one stage, STAGE:optim.steps=100; evaluation.count=100",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train everything N times (1)")
    parser.add_argument("--out", type=Path, default=Path("runs", "lab"), metavar="DIR", help="(default: runs/lab)")
    parser.add_argument("--list", action="store_true", help="say what studies there are")
    parser.add_argument("--show", action="store_true", help="say what the study would do")
    parser.add_argument("--write-docs", type=Path, metavar="DIR", help="copy the results to DIR/STUDY as well")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the results are written, 143 when a signal stopped a run."""
    if arguments.list:
        for name in studies.shipped():
            known = studies.load(name)
            print(f"{name:<16}{known.question}\n{'':<16}after {known.source}")
        return 0
    if arguments.study is None:
        raise RequestError(f"no study; give one of {', '.join(studies.shipped())}, or a TOML file")
    if arguments.seeds < 1:
        raise RequestError(f"--seeds {arguments.seeds}; expected at least 1")
    study, seeds = studies.load(arguments.study, arguments.overrides), range(arguments.seeds)
    if arguments.show:
        print(outline(study, len(seeds)))
        return 0
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("owl lab under torchrun: its owls are small; start it as one process")
    from mplug_owl.lab.run import KEPT, PAGE
    from mplug_owl.lab.run import run as carry_out

    folder = carry_out(study, arguments.out, seeds, lambda line: print(line, file=sys.stderr, flush=True))
    if folder is None:
        return STOPPED
    print((folder / PAGE).read_text(encoding="utf-8"))
    print(f"written to {folder}")
    if arguments.write_docs:
        copy = arguments.write_docs / study.name
        copy.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(folder / name, copy / name)
        print(f"copied to {copy}")
    return 0


def _connector(recipe: Recipe) -> str:
    return f"; f_K becomes {recipe.init.connector}" if recipe.init.connector else ""


def outline(study: Study, seeds: int) -> str:
    """What a study would do: each stage with what trains and what it learns from, and who uses it."""
    lines = [f"{study.name}: {study.question}", f"after {study.source}", "", "stages, each trained once where shared"]
    recipes = {
        name: recipe
        for variant in study.variants
        for name, recipe in zip(variant.stages, study.recipes(variant, seed=0), strict=True)
    }
    for name, recipe in recipes.items():
        paths = ", ".join(source.path.removeprefix("world:") for source in recipe.data.sources)
        lines += [
            f"  {name}: {recipe.optim.steps} steps of {recipe.batch.size}, {recipe.name}",
            f"    trains {', '.join(recipe.train)}" + _connector(recipe),
            f"    from {paths}",
        ]
    lines += ["", "variants"]
    lines += [f"  {each.name}: {' > '.join(each.stages)}  ({each.about})" for each in study.variants]
    asked = study.evaluation
    lines += ["", f"{asked.count} questions of each of {', '.join(asked.skills)}; {seeds} seed{'s' * (seeds > 1)}", ""]
    lines += ["findings to be looked at"]
    for finding in study.findings:
        sides = f"{' and '.join(finding.first)} {finding.expected} than {' and '.join(finding.second)}"
        lines.append(f"  {finding.claim}: {sides} on {', '.join(finding.columns)}")
    return "\n".join(lines)
