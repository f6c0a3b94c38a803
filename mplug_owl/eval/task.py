"""A task: examples that are asked, how an answer is scored, and the tables that the scores add up to.

A task is a frozen dataclass whose fields are its settings, about fifty lines of it; what is true of it whatever its
settings (source, licence, chance ...) are attributes of the class. How it is run, and on what, it does not know; nor
does this file know any task.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mplug_owl.eval.scoring import Interval, interval, is_right, normal
from mplug_owl.messages import Message, Part, TextPart

Unit = Literal["percent", "points"]


@dataclass(frozen=True)
class Example:
    """One question."""

    id: str
    messages: tuple[Message, ...]
    """The conversation up to the asked question, behind that of the example it follows."""
    answers: tuple[str, ...]
    """All that is right, the reference first; empty where nothing is known to be."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What groups it with others, as JSON: its skill, its kind ..."""
    follows: str | None = None
    """The id of the turn before it in a dialogue: what was asked there and the model's own answer come first."""
    group: str | None = None
    """The name of what is only scored whole (a dialogue, the passes of one question, the pair of a picture): asked by
    one worker, and all of it or nothing of it under a limit. Its own id unless given."""

    def said(self, root: Path | None = None) -> list[dict[str, str]]:
        """Its messages to be read, media by name; files below `root` by their path from there."""
        return said(self.messages, root)


@dataclass(frozen=True)
class Score:
    correct: float
    """From 0 to 1."""
    read: str
    """The answer as it was compared."""


@dataclass(frozen=True)
class Record:
    """An example with what was answered, or why nothing was; without an answer its score is 0."""

    example: Example
    answer: str
    score: Score
    error: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of a table: a score over `n` examples with its 95% interval, and whatever else belongs to it."""

    name: str
    n: int
    score: float
    interval: Interval | None
    chance: float | None = None
    more: dict[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    unit: Unit = "percent"
    """Percent: `score`, `interval` and `chance` are shares, 100 times of which are shown (CIDEr too); points: as is."""
    members: tuple[str, ...] = ()
    """The ids of the examples whose scores it is the mean of, where it is one: what two models are compared on."""


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A number that somebody else gives for somebody's model on this task, in the unit of the row it belongs to as it
    is shown (percent as 31.1).
    """

    model: str
    value: float
    source: str
    metric: str = "accuracy"
    row: str | None = None
    """The row of the task's first table it stands beside; the one called like the task unless given."""
    note: str = ""


class Task(ABC):
    """What is asked. Subclasses are frozen dataclasses.

    Each of these is set for a class by plain assignment (`name = "x"`, which makes no field), or is a field of it.
    """

    name: str
    about: str
    needs: str
    """Which files, in which layout."""
    kind: str = "Visual Question Answering"
    """What leaderboards call tasks of this kind."""
    source: str = "this package"
    """Where the data come from."""
    licence: str = "that of this package"
    chance: float | None = None
    """What blind guessing gets, as a share."""
    verified: bool = True
    """Whether the scorer was proved against the official one."""
    split: str = "test"
    max_new_tokens: int = 32
    data: Path | None = None
    """The folder of its files. Where they lie is no setting; what they hold is hashed."""

    @abstractmethod
    def examples(self) -> Iterable[Example]:
        """The same examples in the same order whenever the settings and files are the same.

        Raises:
            EvalError: a file is missing or has another layout; the message says which, and where to get it.
        """

    def files(self) -> Sequence[Path]:
        """The files that questions and references are read from; pictures and videos apart."""
        return ()

    def published(self) -> Sequence[Published]:
        """Numbers that others gave, also those that contradict each other."""
        return ()

    def score(self, example: Example, answer: str) -> Score:
        return Score(float(is_right(answer, example.answers)), normal(answer))

    def aggregate(self, records: Sequence[Record]) -> list[Table]:
        """The tables. The headline is the first one's row called like the task or "all", or else its first row.

        Under a limit the records of some groups are missing, but then all of a group.
        """
        return [Table(self.name, (mean(self.name, records, self.chance),))]

    def exports(self, records: Sequence[Record]) -> Mapping[str, str]:
        """Files to write beside the samples, by name: what only a benchmark's own server can score."""
        return {}


def mean(name: str, records: Sequence[Record], chance: float | None = None, **more: Any) -> Row:
    """The row of some records."""
    scores = [record.score.correct for record in records]
    share = sum(scores) / max(len(scores), 1)
    members = tuple(record.example.id for record in records)
    return Row(name, len(scores), share, interval(scores), chance, more, members=members)


def said(messages: Iterable[Message], root: Path | None = None) -> list[dict[str, str]]:
    """Messages to be read, media by name."""
    return [{"role": m.role, "text": " ".join(_named(part, root) for part in m.content)} for m in messages]


def _named(part: Part, root: Path | None) -> str:
    """A part of a message in words."""
    if isinstance(part, TextPart):
        return part.text
    source = part.source
    if isinstance(source, list | tuple):
        return f"[{len(source)} frames, first: {_source(source[0], root)}]"
    return f"[{_source(source, root)}]"


def _source(source: Any, root: Path | None) -> str:
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"picture of {source.width}x{source.height}"
    if root is not None and isinstance(source, str | Path) and Path(source).is_relative_to(root):
        return Path(source).relative_to(root).as_posix()
    return str(source)
