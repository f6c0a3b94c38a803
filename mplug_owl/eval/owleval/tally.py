"""Grades counted: A to D by system and view, the abilities that answers show, and what published figures count.

Whose grades they are, and how counts are shown, is not known here.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import LETTERS, Consensus, Grade, Letter, digest
from mplug_owl.eval.owleval.answers import System
from mplug_owl.eval.owleval.questions import ABILITIES, VIEWS, Question, Questions, View
from mplug_owl.eval.scoring import Interval, wilson

NOT_GRADED = "not graded"
Given = Mapping[tuple[str, int], Consensus]


@dataclass(frozen=True)
class Tally:
    """How a system's answers to some questions were graded."""

    system: str
    counts: dict[Letter, int]
    left_out: dict[str, int]
    """Questions without a grade, by the reason."""

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    @property
    def total(self) -> int:
        return self.n + sum(self.left_out.values())

    def share(self, letters: str) -> float | None:
        """Of the graded answers, those with one of some letters; None where none is graded."""
        return sum(self.counts[letter] for letter in LETTERS if letter in letters) / self.n if self.n else None

    def interval(self, letters: str) -> Interval | None:
        share = self.share(letters)
        return None if share is None else wilson(share, self.n)


@dataclass(frozen=True)
class Published:
    """Counts of graded answers that somebody published."""

    source: str
    views: dict[View, list[Tally]]
    text: str = ""
    """What was published in words beside the counts."""


def tally(system: System, questions: Iterable[Question], given: Given) -> Tally:
    """What became of a system's answers to some questions."""
    counts: dict[Letter, int] = dict.fromkeys(LETTERS, 0)
    left_out: Counter[str] = Counter()
    for question in questions:
        found, flag = given.get((system.name, question.id)), system.answers[question.id].flag
        if flag is not None and not flag.gradable:
            left_out[flag.reason] += 1
        elif found is None:
            left_out[NOT_GRADED] += 1
        else:
            counts[found.letter] += 1
    return Tally(system.name, counts, dict(left_out))


def matching(grades: Sequence[Grade], systems: Sequence[System]) -> tuple[list[Grade], int]:
    """The grades of exactly these systems' answers, and how many are of other answers by them."""
    answers = {(system.name, id): digest(answer.text) for system in systems for id, answer in system.answers.items()}
    about = [grade for grade in grades if (grade.system, grade.question) in answers]
    kept = [grade for grade in about if answers[grade.system, grade.question] == grade.answer]
    return kept, len(about) - len(kept)


@dataclass(frozen=True)
class Shown:
    """Of how many answers an ability is asked, and how many show it."""

    n: int
    count: int

    @property
    def share(self) -> float | None:
        return self.count / self.n if self.n else None


def abilities(system: System, questions: Questions, given: Given) -> dict[str, Shown]:
    """For each ability the answers to questions that ask for it, where a grader said which of them they show."""
    found = {}
    for letter in ABILITIES:
        asked = [question for question in questions if letter in question.abilities]
        said = [given[place] for question in asked if (place := (system.name, question.id)) in given]
        shown = [each.abilities for each in said if each.abilities is not None]
        found[letter] = Shown(len(shown), sum(letter in abilities for abilities in shown))
    return found


def read_published(path: Path | None = None) -> Published:
    """Counts of a file, or those of the published figure.

    Raises: EvalError where a view's counts do not add up to its number of questions.
    """
    source = files("mplug_owl.eval.owleval").joinpath("published.json") if path is None else path
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
        views = {view: _view(str(source), view, found) for view in VIEWS}
        return Published(str(found["source"]), views, str(found.get("text", "")))
    except EvalError:
        raise
    except OSError as error:
        raise EvalError(f"{source} cannot be read ({error.strerror}); give a file of counts") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvalError(
            f"{source} is no file of counts ({error!r}); expected source, single_turn_N, multi_turn_N"
        ) from None


def _view(source: str, view: View, found: Mapping[str, Any]) -> list[Tally]:
    name = next((name for name in found if name.rpartition("_")[0] == view), None)
    if name is None:
        raise EvalError(f"{source} has no counts of {view}; expected {view}_N, where N is the number of questions")
    tallies = []
    for system, counts in found[name].items():
        made = Tally(system, {letter: int(counts[letter]) for letter in LETTERS}, {})
        if made.n != int(name.rpartition("_")[2]):
            raise EvalError(f"{source}: the counts of {system} in {name} add up to {made.n}; mend them")
        tallies.append(made)
    return tallies
