"""What a judging model said: read from its words, kept line by line, and counted.

Words without a verdict are counted as such and never read as one. How the model is asked is not known here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from mplug_owl.data.ledger import Ledger
from mplug_owl.errors import EvalError
from mplug_owl.eval.grades import LETTERS, Grade, Letter
from mplug_owl.eval.scores.hallusion import check_reading, same_reading
from mplug_owl.eval.scores.review import points

Graded = Literal["grade", "score", "pair"]
Mode = Graded | Literal["check", "same"]
MODES: tuple[Graded, ...] = get_args(Graded)
"""What is asked about open answers; `check` and `same` label answers to yes-or-no questions (`judge_labels.py`)."""
Side = Literal["first", "second", "tie"]
Key = tuple[Mode, tuple[str, ...], int | str]

_GRADE = re.compile(r"^\W*grade\W*\s([A-D])\W*$|^\W*([A-D])\W*$|\[\[([A-D])\]\]", re.IGNORECASE | re.MULTILINE)
_LETTERED = r"[a-f]\b(?:[,\s]+(?:and\s+)?[a-f]\b)*"
_SHOWS = re.compile(rf"^\W*shows\s*:\s*(?:\*\*)?\s*({_LETTERED}|-+|none)\W*$", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(r"^\W*verdict\W*\s(1|2|tie)\W*$|^\W*(1|2|tie)\W*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """One reply of a judge, or why there is none."""

    mode: Mode
    systems: tuple[str, ...]
    """Whose answers it read, in the order in which it did."""
    question: int | str
    judge: str
    answers: tuple[str, ...]
    """Digests of the answers."""
    asked: str
    """Digest of all that the judge was shown, and of what it is."""
    time: str
    raw: str | None
    error: str | None = None

    @property
    def key(self) -> Key:
        return self.mode, self.systems, self.question

    @cached_property
    def letter(self) -> Letter | None:
        return None if self.raw is None else read_letter(self.raw)

    @cached_property
    def scores(self) -> tuple[float, float] | None:
        return None if self.raw is None else read_scores(self.raw)

    @cached_property
    def better(self) -> Side | None:
        """Which of two answers it found better; by their scores where it gave some."""
        if self.raw is None:
            return None
        if self.mode == "pair":
            return read_side(self.raw)
        return None if self.scores is None else _side(*self.scores)

    @property
    def read(self) -> Any:
        """The verdict itself; None where the words hold none."""
        if self.mode in ("check", "same"):
            reading = check_reading if self.mode == "check" else same_reading
            return None if self.raw is None else reading(self.raw)
        return {"grade": self.letter, "score": self.scores, "pair": self.better}[self.mode]

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.read}


def read_letter(raw: str) -> Letter | None:
    """The grade that its lines name; None where none does, or they differ."""
    found = {next(filter(None, groups)).upper() for groups in _GRADE.findall(raw)}
    return next((letter for letter in LETTERS if found == {letter}), None)


def read_abilities(raw: str) -> tuple[str, ...] | None:
    """The letters of the line `Shows: ...`; None where there is no such line."""
    found = _SHOWS.search(raw)
    return None if found is None else tuple(dict.fromkeys(re.findall(r"\b[a-f]\b", found[1].lower())))


def read_scores(raw: str) -> tuple[float, float] | None:
    """The two numbers, from 1 to 10, that are all of the first line."""
    found = points(raw.strip())
    return found if found is not None and all(1 <= score <= 10 for score in found) else None


def read_side(raw: str) -> Side | None:
    found = {next(filter(None, groups)).lower() for groups in _VERDICT.findall(raw)}
    sides: dict[str, Side] = {"1": "first", "2": "second", "tie": "tie"}
    return sides[found.pop()] if len(found) == 1 else None


def _side(first: float, second: float) -> Side:
    return "tie" if first == second else "first" if first > second else "second"


def read_verdicts(path: Path) -> list[Verdict]:
    """The verdicts of a file, the last for each question and systems.

    Raises: EvalError where a line is no verdict, DataError where it is no object at all.
    """
    found: dict[Key, Verdict] = {}
    for where, row in Ledger(path).rows():
        try:
            row.pop("verdict")
            verdict = Verdict(**{**row, "systems": tuple(row["systems"]), "answers": tuple(row["answers"])})
            if verdict.mode not in (*MODES, "check", "same") or type(verdict.question) not in (int, str):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise EvalError(f"{where} is no verdict; mend the line or take it away") from None
        found[verdict.key] = verdict
    return list(found.values())


def grades_of(verdicts: Iterable[Verdict]) -> list[Grade]:
    """The verdicts that give an answer a letter, as grades of a rater that is called like the judge."""
    return [
        Grade(v.judge, v.systems[0], v.question, v.letter, read_abilities(v.raw or ""), v.answers[0], v.time)
        for v in verdicts
        if v.mode == "grade" and v.letter is not None and isinstance(v.question, int)
    ]


# ---- two answers, each first once ----------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """A system against another over all questions, each asked in both orders."""

    system: str
    against: str
    n: int
    """Questions with a verdict in both orders."""
    wins: int
    losses: int
    ties: int
    """Equal in both orders."""
    split: int
    """The orders contradict each other, or only one prefers a side: counted as neither's."""
    unread: int
    """Questions that lack a verdict in an order."""
    scores: tuple[float, float] | None
    """Sums over both orders, where scores were given."""

    @property
    def relative(self) -> float | None:
        """The system's score as a share of the other's."""
        return None if self.scores is None or not self.scores[1] else self.scores[0] / self.scores[1]


def duels(verdicts: Iterable[Verdict], against: str) -> list[Duel]:
    """Each other system against one, in the order of their first verdicts."""
    by_system: dict[str, dict[int | str, dict[bool, Verdict]]] = {}
    for verdict in verdicts:
        if verdict.mode != "grade" and against in verdict.systems:
            leads = verdict.systems[1] == against
            system = verdict.systems[0 if leads else 1]
            by_system.setdefault(system, {}).setdefault(verdict.question, {})[leads] = verdict
    return [_duel(system, against, list(found.values())) for system, found in by_system.items()]


def outcome(orders: dict[bool, Verdict]) -> Side | Literal["split"] | None:
    """What both orders say of the system that leads in the one of True; None where one of them says nothing."""
    if len(orders) < 2 or any(verdict.better is None for verdict in orders.values()):
        return None
    turned: dict[Side, Side] = {"first": "second", "second": "first", "tie": "tie"}
    leading, following = orders[True].better, orders[False].better
    assert leading is not None and following is not None
    return leading if leading == turned[following] else "split"


def _duel(system: str, against: str, questions: Sequence[dict[bool, Verdict]]) -> Duel:
    said = [outcome(orders) for orders in questions]
    whole = [orders for orders, found in zip(questions, said, strict=True) if found is not None]
    scores = [orders[leads].scores for orders in whole for leads in (True, False)]
    own = other = 0.0
    for place, pair in enumerate(scores):
        if pair is not None:
            mine, theirs = pair if place % 2 == 0 else pair[::-1]
            own, other = own + mine, other + theirs
    counted = [said.count(kind) for kind in ("first", "second", "tie", "split", None)]
    wins, losses, ties, split, unread = counted
    given = (own, other) if any(scores) else None
    return Duel(system, against, len(whole), wins, losses, ties, split, unread, given)
