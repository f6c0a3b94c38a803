"""The stages of a study as a tree of runs, each known by all that decides what it learns, each trained once.

A node's folder is named after its key, so variants, studies and repeated commands find what is there, and a change of
any setting makes another node. Which nodes a study needs and what is asked of them is not known here.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from mplug_owl import settings
from mplug_owl.data.sources import open_source
from mplug_owl.lab.study import Study, Variant
from mplug_owl.models import parts
from mplug_owl.train import loop, sequence
from mplug_owl.train.plan import PARTS_OF_INIT
from mplug_owl.train.recipe import Init, Recipe

OWL, SECONDS = "final", "seconds.json"
_IDLE = ("name", "stage", "source", "contradictions", "keep", "log")  # what of a recipe decides nothing


@dataclass(frozen=True)
class Node:
    """One run: a recipe that begins where another ended."""

    recipe: Recipe
    before: "Node | None" = None

    @cached_property
    def key(self) -> str:
        """A hash of the settings, of the data, and of all that went before."""
        decides = {name: value for name, value in json.loads(settings.dump(self.recipe)).items() if name not in _IDLE}
        if self.before:
            del decides["init"]["start"]  # a study's name for what went before
        sources = [_identity(s.path, s.format, s.image_root) for s in self.recipe.data.sources]
        start = self.before.key if self.before else _architecture(self.recipe.init)
        return hashlib.sha256(json.dumps([start, decides, sources], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.key}"

    def chain(self) -> Iterator["Node"]:
        """All that went before, then this."""
        if self.before:
            yield from self.before.chain()
        yield self


@cache
def _identity(path: str, format: str | None, image_root: str | None) -> str:
    return open_source(path, format, image_root).identity


def _architecture(init: Init) -> str:
    """Of a family, which may change from one version to the next; the name of anything else."""
    if init.start is not None:
        return init.start
    named = {name: getattr(init, name) for name in PARTS_OF_INIT}
    return parts.configuration(init.family, **named).to_json_string()


def node(study: Study, variant: Variant, seed: int) -> Node:
    """The last run of a variant."""
    made: Node | None = None
    for recipe in study.recipes(variant, seed):
        made = Node(recipe, made)
    assert made is not None, "a variant has stages"
    return made


def is_trained(node: Node, folder: Path) -> bool:
    return (folder / node.name / OWL).is_dir()


def train(node: Node, folder: Path) -> Path | None:
    """The whole owl that a node leaves in its folder within `folder`; None where a signal stopped it.

    What is there is left alone, and a run that was stopped goes on. The one before it must be there.
    """
    run = folder / node.name
    if is_trained(node, folder):
        return run / OWL
    recipe = node.recipe
    if node.before:
        recipe = replace(recipe, init=replace(recipe.init, start=str(folder / node.before.name / OWL)))
    began = time.perf_counter()
    # A sequence of one: it merges an adapter, so that the end is a whole owl.
    owl = sequence.run([recipe], run, lambda stage, _: loop.run(stage, run).saved)
    spend(run, "train", time.perf_counter() - began)
    if owl is not None:
        shutil.rmtree(run / loop.CHECKPOINTS)  # nothing goes on from them
    return owl


def spend(run: Path, what: str, seconds: float) -> None:
    """Add to the seconds that a node took; those of a part that was killed are lost."""
    path = run / SECONDS
    spent = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    spent[what] = round(spent.get(what, 0.0) + seconds, 1)
    path.write_text(json.dumps(spent) + "\n", encoding="utf-8")
