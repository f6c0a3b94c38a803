"""A task: examples that are asked, how an answer is scored, and the tables that the scores add up to.

A task is a frozen dataclass whose fields are its settings, about fifty lines of it. How it is run, and on what, it does
not know; nor does this file know any task.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image

from mplug_owl.eval.scoring import Interval, is_right, normal, wilson
from mplug_owl.messages import Message, Part, TextPart


@dataclass(frozen=True)
class Example:
    """One question."""

    id: str
    messages: tuple[Message, ...]
    """The conversation up to the asked question."""
    answers: tuple[str, ...]
    """All that is right, the reference first."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What groups it with others, as JSON: its skill, its kind ..."""

    def said(self) -> list[dict[str, str]]:
        """The conversation to be read, its media by name."""
        return [{"role": m.role, "text": " ".join(map(_named, m.content))} for m in self.messages]


@dataclass(frozen=True)
class Score:
    correct: float
    """From 0 to 1."""
    read: str
    """The answer as it was compared."""


@dataclass(frozen=True)
class Record:
    """An example with what was answered."""

    example: Example
    answer: str
    score: Score


@dataclass(frozen=True)
class Row:
    """One line of a table: a mean over `n` examples with its 95% interval, and whatever else belongs to it."""

    name: str
    n: int
    score: float
    interval: Interval
    chance: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class Task(ABC):
    """What is asked. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    about: ClassVar[str]
    needs: ClassVar[str]
    """Which files, from where."""
    max_new_tokens: ClassVar[int] = 32

    @abstractmethod
    def examples(self) -> Iterable[Example]:
        """The same examples in the same order whenever the settings are the same."""

    def score(self, example: Example, answer: str) -> Score:
        return Score(float(is_right(answer, example.answers)), normal(answer))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        return [Table(self.name, (mean(self.name, records),))]


def mean(name: str, records: Sequence[Record], chance: float | None = None, **more: Any) -> Row:
    """The row of some records."""
    n = len(records)
    score = sum(record.score.correct for record in records) / max(n, 1)
    return Row(name, n, score, wilson(score, n), chance, more)


def _named(part: Part) -> str:
    """A part of a message in words."""
    if isinstance(part, TextPart):
        return part.text
    source = part.source
    if isinstance(source, list | tuple):
        return f"[{len(source)} frames, first: {_source(source[0])}]"
    return f"[{_source(source)}]"


def _source(source: Any) -> str:
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return f"picture of {source.width}x{source.height}" if isinstance(source, Image.Image) else str(source)
