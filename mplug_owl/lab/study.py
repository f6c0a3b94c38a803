"""A study: variants of training that share stages, the questions they are compared on, and what a paper found.

It is a small TOML file; `shipped` and `load` find it, `Study.recipe` makes a complete recipe of one of its stages. How
stages are run is not known here.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mplug_owl import settings
from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.lab.columns import COLUMNS
from mplug_owl.train import recipe as recipes
from mplug_owl.train.recipe import PLACEHOLDER, Recipe, Source
from mplug_owl.world.chance import Split

if TYPE_CHECKING:
    from mplug_owl.eval.tasks.world import WorldTask


@dataclass(frozen=True)
class Stage:
    recipe: str
    """A shipped recipe or a TOML file; where it starts is decided by the variant."""
    mixture: tuple[str, ...] = ()
    """Mixtures that are its sources together; none leaves it those of the recipe."""
    freeze: tuple[str, ...] = ()
    """Modules that the recipe trains, and that stay as they are here."""
    changes: tuple[str, ...] = ()
    """Dotted overrides of the recipe, such as "optim.steps=100"."""


@dataclass(frozen=True)
class Variant:
    name: str
    about: str
    stages: tuple[str, ...]
    """In order; variants with the same first stages share them."""


@dataclass(frozen=True)
class Evaluation:
    """Questions of the drawn world, each asked with its picture and with a grey one."""

    skills: tuple[str, ...]
    columns: tuple[str, ...]
    """Of the table."""
    count: int = 60
    """Questions of each skill."""
    split: Split = "test"

    def task(self) -> "WorldTask":
        from mplug_owl.eval.tasks.world import WorldTask

        return WorldTask(self.skills, self.count, ("grey",), self.split)


@dataclass(frozen=True)
class Finding:
    """What a paper says, as a comparison of variants: `first` against `second`, each a mean over its variants."""

    claim: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    columns: tuple[str, ...]
    """The questions of all of them together."""
    paper: str
    """Where it stands, and with which numbers if any."""
    expected: Literal["better", "not worse"] = "better"
    margin: float = 0.0
    """How much less still counts as not worse, from 0 to 1."""


@dataclass(frozen=True)
class Study:
    name: str
    source: str
    """The table or figure that it is after."""
    question: str
    evaluation: Evaluation
    stages: dict[str, Stage]
    variants: tuple[Variant, ...]
    findings: tuple[Finding, ...] = ()
    mixtures: dict[str, tuple[Source, ...]] = field(default_factory=dict)
    """Sources of training by name. Their weights add up as they are: mixtures that sum to 1 have equal parts."""
    changes: tuple[str, ...] = ()
    """Dotted overrides of every stage's recipe, before the stage's own."""
    notes: tuple[str, ...] = ()
    """What stands for what, and what is different from the paper."""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"study {self.name}: variants {names}; expected at least one, each with a name of its own"
            )
        for variant in self.variants:
            self._know(f"variant {variant.name}", variant.stages, "stage", self.stages)
        for name, stage in self.stages.items():
            self._know(f"stage {name}", stage.mixture, "mixture", self.mixtures)
        self._know("evaluation", self.evaluation.columns, "column", COLUMNS)
        for finding in self.findings:
            where = f"finding {finding.claim!r}"
            if finding.margin and finding.expected == "better":
                raise ConfigError(
                    f"study {self.name}: {where} has margin={finding.margin} and expected='better'; a margin is for "
                    "'not worse': leave one out"
                )
            self._know(where, finding.first, "variant", names)
            self._know(where, finding.second, "variant", names)
            self._know(where, finding.columns, "column", COLUMNS)

    def _know(self, where: str, given: Sequence[str], kind: str, known: Iterable[str]) -> None:
        if not given and kind != "mixture":
            raise ConfigError(f"study {self.name}: {where} names no {kind}; expected at least one")
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"study {self.name}: {where} names unknown {kind} {name!r}{did_you_mean(name, known)}"
                )

    def recipes(self, variant: Variant, seed: int) -> list[Recipe]:
        """The complete recipes of a variant, in order."""
        return [
            self.recipe(name, seed, before)
            for before, name in zip((None, *variant.stages), variant.stages, strict=False)
        ]

    def recipe(self, name: str, seed: int, before: str | None = None) -> Recipe:
        """The complete recipe of a stage; what the stage `before` leaves is still to be filled in."""
        stage = self.stages[name]
        tree = dataclasses.asdict(recipes.load(stage.recipe))
        tree["init"]["start"] = before and f"{PLACEHOLDER}/{before}"
        if stage.mixture:
            sources = [source for mixture in stage.mixture for source in self.mixtures[mixture]]
            tree["data"]["sources"] = [dataclasses.asdict(source) for source in sources]
        self._freeze(tree, name)
        for change in (*self.changes, *stage.changes):
            settings.apply_override(tree, change)
        return settings.build(Recipe, {**tree, "seed": seed}, f"study {self.name}, stage {name}")

    def _freeze(self, tree: dict[str, Any], name: str) -> None:
        for module in self.stages[name].freeze:
            if module not in tree["train"]:
                raise ConfigError(
                    f"study {self.name}: stage {name} freezes {module!r}, which its recipe does not train"
                    f"{did_you_mean(module, tree['train'])}"
                )
            del tree["train"][module]
            if module == "lora":
                tree["lora"] = None


def shipped() -> dict[str, Path]:
    """Studies that come with the package, by name."""
    folder = Path(str(files("mplug_owl") / "lab" / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Study:
    """A shipped study by name or a TOML file by path.

    An override is for the recipes of all stages (`optim.steps=9`), for that of one (`joint:optim.steps=9`), or for the
    questions (`evaluation.count=9`).
    """
    known = shipped()
    if not name_or_path.endswith(".toml") and name_or_path not in known:
        raise ConfigError(f"unknown study {name_or_path!r}{did_you_mean(name_or_path, known)}")
    asked = [override for override in overrides if override.startswith("evaluation.")]
    study = settings.read(Study, known.get(name_or_path, Path(name_or_path)), asked)
    wishes: dict[str, list[str]] = {name: [] for name in study.stages}
    for override in overrides:
        stage, colon, rest = override.partition(":")
        if override in asked:
            continue
        if not colon or "=" in stage:
            for own in wishes.values():
                own.append(override)
        elif stage in wishes:
            wishes[stage].append(rest)
        else:
            raise ConfigError(f"override {override!r} is for no stage of {study.name}{did_you_mean(stage, wishes)}")
    stages = {
        name: dataclasses.replace(stage, changes=(*stage.changes, *wishes[name]))
        for name, stage in study.stages.items()
    }
    return dataclasses.replace(study, stages=stages)
