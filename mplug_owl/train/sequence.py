"""Several recipes one after the other, each starting from what the one before it left.

A sequence is a TOML file that names its stages. Each runs in a folder of its own, and the same call goes on where one
was stopped. A last adapter is merged, so that the end is always one whole owl.
"""

import os
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from mplug_owl import settings
from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.train import recipe as recipes
from mplug_owl.train.recipe import Recipe

Runner = Callable[[Recipe, Path], Path | None]


@dataclass(frozen=True)
class Stages:
    """The file itself."""

    name: str
    source: str
    """Where it comes from."""
    stages: tuple[str, ...]
    """Recipes, in order; all but the first start from the result of the one before."""


def shipped() -> dict[str, Path]:
    folder = Path(str(files("mplug_owl") / "recipes" / "sequences"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def is_sequence(name_or_path: str) -> bool:
    if name_or_path in shipped():
        return True
    path = Path(name_or_path)
    return path.suffix == ".toml" and path.is_file() and "stages" in tomllib.loads(path.read_text(encoding="utf-8"))


def load(name_or_path: str, overrides: Sequence[str] = ()) -> list[Recipe]:
    """The recipes of a sequence. An override is for all of them, or for one: `owlet-pretrain:optim.steps=100`."""
    chain = settings.read(Stages, shipped().get(name_or_path, Path(name_or_path)), ())
    own: dict[str, list[str]] = {name: [] for name in chain.stages}
    for override in overrides:
        stage, colon, rest = override.partition(":")
        if not colon or "=" in stage:
            for wishes in own.values():
                wishes.append(override)
        elif stage in own:
            own[stage].append(rest)
        else:
            raise ConfigError(f"override {override!r} is for no stage of {chain.name}{did_you_mean(stage, own)}")
    return [recipes.load(name, tuple(wishes)) for name, wishes in own.items()]


def run(stages: Sequence[Recipe], out: Path, runner: Runner) -> Path | None:
    """Carry out all stages in folders of `out`; the finished owl, or None where a signal stopped one.

    `runner` carries out one recipe in a folder, going on with what is there, and returns its result.
    """
    from mplug_owl.models.adapters import BASE, merge  # torch takes seconds, and --help needs none
    from mplug_owl.train.parallel import joined

    result: Path | None = None
    with joined():
        for stage in stages:
            if result is not None:
                stage = replace(stage, init=replace(stage.init, start=str(result)))
            result = runner(stage, out / stage.name)
            if result is None:
                return None
    assert result is not None, "a sequence has stages"
    if not (result / BASE).is_file():
        return result
    whole = out / "final"
    if not whole.exists() and int(os.environ.get("RANK", 0)) == 0:
        partial = out / "final.partial"
        shutil.rmtree(partial, ignore_errors=True)
        merge(result, partial)
        partial.rename(whole)
    return whole
