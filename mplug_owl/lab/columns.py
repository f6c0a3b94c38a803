"""The columns of a study's table: which answers count in each.

The first six are the abilities that OwlEval labels its questions with; as there, they count where something is shown.
A column makes of answers, as an evaluation writes them, a value for each of its questions; what becomes of the values
is not known here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mplug_owl.world.scene import ABILITIES

Answer = Mapping[str, Any]
"""A line of samples.jsonl: `id`, `correct` and `meta`."""
Values = dict[str, float]
"""By what was asked; two owls that were asked the same have the same keys."""
GREY = "/grey"


@dataclass(frozen=True)
class Column:
    about: str
    values: Callable[[Iterable[Answer]], Values]


def _share(counts: Callable[[Mapping[str, Any]], bool]) -> Callable[[Iterable[Answer]], Values]:
    """Whether an answer is right, wherever its meta says that it counts."""

    def values(answers: Iterable[Answer]) -> Values:
        return {answer["id"]: answer["correct"] for answer in answers if counts(answer["meta"])}

    return values


def _own(meta: Mapping[str, Any]) -> bool:
    return meta["control"] is None


def _ability(name: str) -> Column:
    def counts(meta: Mapping[str, Any]) -> bool:
        return _own(meta) and meta["scene"] is not None and name in meta["abilities"]

    return Column(f"questions about pictures that need {name}", _share(counts))


_eye = _share(lambda meta: _own(meta) and meta["looks"])
_grey = _share(lambda meta: meta["control"] == "grey")


def _sees(answers: Iterable[Answer]) -> Values:
    answers = list(answers)
    grey = _grey(answers)
    return {f"{name}/sees": value - grey[name + GREY] for name, value in _eye(answers).items()}


COLUMNS: dict[str, Column] = {
    **{name: _ability(name) for name in ABILITIES},
    "text": Column("questions without any picture", _share(lambda meta: _own(meta) and meta["scene"] is None)),
    "overall": Column("all questions, those of each skill as many", _share(_own)),
    "eye": Column("questions that nobody can answer who does not see the picture", _eye),
    "grey": Column("the same, shown a grey picture", _grey),
    "sees": Column("what the picture is worth: eye less grey", _sees),
}


def pooled(names: Iterable[str], answers: Iterable[Answer]) -> Values:
    """The values of several columns together; a question that is in two of them counts once."""
    answers = list(answers)
    found: Values = {}
    for name in names:
        found |= COLUMNS[name].values(answers)
    return found
