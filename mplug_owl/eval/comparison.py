"""Several runs side by side: the same rows of the same tasks, paired tests on the same samples, and warnings where two
runs did not do the same.

It reads what runs wrote, and knows neither tasks nor models; how it is shown is the business of `comparison_page.py`.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.report import UNVERIFIED
from mplug_owl.eval.run import RESULTS, ROWS, SAMPLES
from mplug_owl.eval.scoring import Interval, difference, paired_test, wilson

_SAME = {
    "split": "splits",
    "files": "revisions of the data files",
    "data": "questions or references",
    "prompts": "prompts",
    "decoding": "decoding",
    "max_new_tokens": "lengths of answers",
    "settings": "settings",
}


@dataclass(frozen=True)
class Run:
    """What a folder of a run holds."""

    name: str
    results: Mapping[str, Any]
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises: EvalError where it holds no finished run."""
        try:
            results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
            return cls(str(results["model"]["name"]), results, folder)
        except FileNotFoundError:
            found = "a run that is not finished" if any(folder.glob(f"*/{SAMPLES}")) else "no run"
            raise EvalError(f"{folder} holds {found}; expected the folder of owl eval or owl score, finished") from None
        except (ValueError, KeyError, TypeError) as error:
            raise EvalError(
                f"{folder / RESULTS} cannot be read ({error}); run the command that made it again"
            ) from None

    def scores(self, task: str, table: str, row: str) -> dict[str, tuple[Any, float]]:
        """The samples that a row is the mean of, by id: what was asked of each, and its score."""
        try:
            places = json.loads((self.folder / task / ROWS).read_text(encoding="utf-8")).get(table, {}).get(row, [])
            lines = (self.folder / task / SAMPLES).read_text(encoding="utf-8").split("\n")
            rows = [json.loads(lines[place]) for place in places]
            return {each["id"]: (_asked(each), each["correct"]) for each in rows}
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise EvalError(f"the samples of {task} in {self.folder} cannot be read ({error})") from None


def _asked(sample: Mapping[str, Any]) -> Any:
    """What two models must have in common to be compared; what a model itself said before is its own."""
    return [turn for turn in sample["prompt"] if turn["role"] != "assistant"], sample["reference"]


@dataclass(frozen=True)
class Pair:
    """Two runs on the same samples."""

    first: str
    second: str
    n: int
    difference: float
    """Of the mean scores, as shares: what the first is better by."""
    interval: Interval
    test: str
    p: float


@dataclass(frozen=True)
class Line:
    """A row of a table with the score of each run, None where a run does not have it."""

    name: str
    metric: str
    unit: str
    chance: float | None
    scores: tuple[Mapping[str, Any] | None, ...]
    published: tuple[Mapping[str, Any], ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Sheet:
    """A task: its tables by title, what holds for all runs, and what does not."""

    name: str
    facts: Mapping[str, Any]
    """What the first run that has it says of the task."""
    tables: Mapping[str, tuple[Line, ...]]
    headline: Line
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    runs: tuple[Run, ...]
    sheets: tuple[Sheet, ...]


def compare(folders: Sequence[Path]) -> Comparison:
    """Raises: EvalError where a folder holds no finished run, or is given twice."""
    if twice := [folder for place, folder in enumerate(folders) if folder in folders[:place]]:
        raise EvalError(f"{twice[0]} is given twice; expected runs of their own")
    runs = _named([Run.read(folder) for folder in folders])
    tasks = dict.fromkeys(task for run in runs for task in run.results["tasks"])
    return Comparison(runs, tuple(_sheet(task, runs) for task in tasks))


def _named(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Runs of the same model are told apart by their folders."""
    for called in (lambda run: run.name, lambda run: f"{run.name} ({run.folder.name})"):
        names = [called(run) for run in runs]
        if len(set(names)) == len(names):
            return tuple(Run(name, run.results, run.folder) for name, run in zip(names, runs, strict=True))
    return tuple(Run(f"{run.name} ({run.folder})", run.results, run.folder) for run in runs)


def _sheet(task: str, runs: Sequence[Run]) -> Sheet:
    there = [run for run in runs if task in run.results["tasks"]]
    facts = there[0].results["tasks"][task]
    titles = dict.fromkeys(table["title"] for run in there for table in run.results["tasks"][task]["tables"])
    first = next(iter(titles))
    headline = _headline(task, facts["tables"][0]["rows"])
    tables: dict[str, tuple[Line, ...]] = {}
    for title in titles:
        rows = [_rows(run, task, title) for run in runs]
        keys = dict.fromkeys(key for found in rows for key in found)
        tables[title] = tuple(
            _line(task, title, key, rows, runs, facts["published"] if title == first else (), headline) for key in keys
        )
    lead = next(line for line in tables[first] if line.name == headline)
    return Sheet(task, facts, tables, lead, tuple(_warnings(task, there)))


def _rows(run: Run, task: str, title: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of a run's table by name and metric."""
    tables = run.results["tasks"].get(task, {"tables": []})["tables"]
    return {(row["name"], row["metric"]): row for table in tables if table["title"] == title for row in table["rows"]}


def _headline(task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    names = [str(row["name"]) for row in rows]
    return next((name for name in (task, "all") if name in names), names[0])


def _line(
    task: str,
    title: str,
    key: tuple[str, str],
    rows: Sequence[Mapping[tuple[str, str], Mapping[str, Any]]],
    runs: Sequence[Run],
    published: Sequence[Mapping[str, Any]],
    headline: str,
) -> Line:
    name, metric = key
    found = tuple(row.get(key) for row in rows)
    known = next(row for row in found if row is not None)
    mine = [each for each in published if (each["row"] or headline) == name and each["metric"] == metric]
    have = [run for run, row in zip(runs, found, strict=True) if row is not None]
    samples = {run.name: run.scores(task, title, name) for run in have} if len(have) > 1 else {}
    pairs = [_pair(a, b, samples[a], samples[b]) for a, b in itertools.combinations(samples, 2)]
    tested = tuple(pair for pair in pairs if pair is not None)
    return Line(name, metric, known["unit"], known["chance"], found, tuple(mine), tested)


def _pair(
    first: str, second: str, ours: Mapping[str, tuple[Any, float]], theirs: Mapping[str, tuple[Any, float]]
) -> Pair | None:
    """None where no sample was asked of both in the same words and with the same reference."""
    both = [name for name, (asked, _) in ours.items() if name in theirs and theirs[name][0] == asked]
    if not both:
        return None
    a, b = [ours[name][1] for name in both], [theirs[name][1] for name in both]
    found, most = paired_test(a, b), wilson(0.0, len(both)).high
    # Where no pair differs, a bootstrap would make certainty of it.
    spread = difference(a, b) if a != b else Interval(-most, most)
    return Pair(first, second, len(both), (sum(a) - sum(b)) / len(both), spread, found.name, found.p)


def _warnings(task: str, runs: Sequence[Run]) -> list[str]:
    said: list[str] = []
    facts = {run.name: run.results["tasks"][task] for run in runs}
    for (first, ours), (second, theirs) in itertools.combinations(facts.items(), 2):
        for name, words in _SAME.items():
            if ours[name] != theirs[name]:
                said.append(f"{first} and {second} differ in {words}: {_apart(ours[name], theirs[name])}")
        versions = [run.results["versions"]["mplug_owl"] for run in runs if run.name in (first, second)]
        if len(set(versions)) > 1:
            said.append(f"{first} and {second} were scored by versions {' and '.join(versions)} of this package")
    for run, found in facts.items():
        if found["failed"]:
            said.append(f"{found['failed']} of {found['n']} questions have no answer of {run}; they count as wrong")
    if any(not found["verified"] for found in facts.values()):
        said.append(UNVERIFIED)
    return said


def _apart(ours: Any, theirs: Any) -> str:
    """What differs, briefly."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        return ", ".join(f"{name} {ours.get(name)!r} and {theirs.get(name)!r}" for name in names)
    return f"{ours!r} and {theirs!r}"
