"""Grades that people give to answers: A to D, and which of the asked abilities an answer reflects.

The log is only ever added to, a line for each grade, on the disk before the next is asked for; the last line about an
answer counts. What is graded, and how it is shown, is not known here.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from mplug_owl.data.ledger import Ledger
from mplug_owl.errors import EvalError
from mplug_owl.eval.agreement import Level, kappa, krippendorff, krippendorff_interval
from mplug_owl.eval.scoring import Interval

Letter = Literal["A", "B", "C", "D"]
LETTERS: tuple[Letter, ...] = get_args(Letter)  # best first
MEANINGS: dict[Letter, str] = {
    "A": "right and satisfying: it does what was asked, and what it says of the picture is so",
    "B": "acceptable: it does what was asked, with slips that do not spoil it",
    "C": "it understood what was asked, but the answer has serious errors",
    "D": "irrelevant or wrong: it does not do what was asked",
}


@dataclass(frozen=True)
class Grade:
    rater: str
    system: str
    question: int
    grade: Letter
    abilities: tuple[str, ...] | None
    """Those of the question's that the answer reflects; None where the rater, a model, did not say."""
    answer: str
    """`digest` of the answer that was graded, so that no grade passes to another answer."""
    time: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.rater, self.system, self.question


def digest(answer: str) -> str:
    return hashlib.sha256(answer.encode("utf-8")).hexdigest()[:16]


class GradeLog:
    """A file of grades that several raters may write to at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, grade: Grade) -> None:
        """Write a grade down; when this returns it is on the disk."""
        Ledger(self.path).append(asdict(grade))

    def read(self) -> list[Grade]:
        """All grades in the order in which they were given.

        Raises: EvalError where a line is no grade, DataError where it is no object at all.
        """
        return [_grade(where, row) for where, row in Ledger(self.path).rows()]


def read_grades(paths: Iterable[Path]) -> list[Grade]:
    """The grades of several files that are expected to be there.

    Raises: EvalError where one is not, or a line is no grade; DataError where it is no object at all.
    """
    found: list[Grade] = []
    for path in paths:
        if not path.exists():
            raise EvalError(f"{path} is not there; expected a file of grades from owl rate")
        found += GradeLog(path).read()
    return found


def latest(grades: Iterable[Grade]) -> list[Grade]:
    """The grades that count: the last of each rater for each answer, in the order of their first ones."""
    return list({grade.key: grade for grade in grades}.values())


@dataclass(frozen=True)
class Consensus:
    """What the raters of one answer say together."""

    letter: Letter
    """The middle one of their letters, the worse of two middle ones."""
    abilities: frozenset[str] | None
    """Those that more than half of the raters who said anything of abilities saw; None where none did."""
    raters: int


def consensus(grades: Iterable[Grade]) -> dict[tuple[str, int], Consensus]:
    """What is said of each answer, by system and question."""
    given: dict[tuple[str, int], list[Grade]] = {}
    for grade in latest(grades):
        given.setdefault((grade.system, grade.question), []).append(grade)
    return {place: _together(found) for place, found in given.items()}


def _together(grades: Sequence[Grade]) -> Consensus:
    letters = sorted(grade.grade for grade in grades)
    said = [grade.abilities for grade in grades if grade.abilities is not None]
    seen = {ability for abilities in said for ability in abilities}
    shown = frozenset(ability for ability in seen if 2 * sum(ability in each for each in said) > len(said))
    return Consensus(letters[len(letters) // 2], shown if said else None, len(grades))


def _grade(where: str, row: dict[str, Any]) -> Grade:
    try:
        abilities = row["abilities"]
        grade = Grade(**{**row, "abilities": None if abilities is None else tuple(abilities)})
        if grade.grade not in LETTERS or type(grade.question) is not int or not grade.rater or not grade.system:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise EvalError(f"{where} is no grade; mend the line or take it away") from None
    return grade


# ---- agreement -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two raters over the answers that both graded; None where chance alone must agree."""

    raters: tuple[str, str]
    n: int
    same: float
    kappa: float | None
    weighted: float | None
    """Cohen's kappa with quadratic weights."""


@dataclass(frozen=True)
class Agreement:
    raters: tuple[str, ...]
    n: int
    """Answers that two raters or more graded."""
    alpha: dict[Level, float | None]
    interval: dict[Level, Interval | None]
    pairs: tuple[Pair, ...]


def agreement(grades: Sequence[Grade]) -> Agreement:
    """How far the raters of some grades agree on A to D."""
    given: dict[tuple[str, int], dict[str, Letter]] = {}
    for grade in latest(grades):
        given.setdefault((grade.system, grade.question), {})[grade.rater] = grade.grade
    units = [list(letters.values()) for letters in given.values()]
    raters = tuple(dict.fromkeys(grade.rater for grade in grades))
    levels: tuple[Level, ...] = ("ordinal", "nominal")
    return Agreement(
        raters,
        sum(len(values) > 1 for values in units),
        {level: krippendorff(units, LETTERS, level) for level in levels},
        {level: krippendorff_interval(units, LETTERS, level) for level in levels},
        tuple(_pair(pair, list(given.values())) for pair in combinations(raters, 2)),
    )


def _pair(raters: tuple[str, str], given: Sequence[dict[str, Letter]]) -> Pair:
    both = [letters for letters in given if raters[0] in letters and raters[1] in letters]
    first, second = ([letters[rater] for letters in both] for rater in raters)
    same = sum(one == other for one, other in zip(first, second, strict=True)) / max(len(both), 1)
    weighted = kappa(first, second, LETTERS, "quadratic")
    return Pair(raters, len(both), same, kappa(first, second, LETTERS, "none"), weighted)
