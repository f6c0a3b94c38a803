"""A published benchmark as a task: read from its own files, in the layout its makers give them.

`Benchmark` finds the files, says what is missing and where to get it, and carries the numbers that others published
(`published.json`). What is asked and how it is scored stands in the modules beside this one.
"""

import csv
import json
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mplug_owl.errors import DataError, EvalError
from mplug_owl.eval.task import Published, Record, Row, Task, mean
from mplug_owl.eval.tasks.hub import table_rows
from mplug_owl.messages import ImagePart, Message, Part, TextPart

# How mPLUG-Owl2 was asked (mplug_owl2/evaluate/*.py).
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option\u2019s letter from the given choices directly."
LETTERS = "ABCDEFGHI"

T = TypeVar("T")


@dataclass(frozen=True)
class Benchmark(Task):
    """Reading and wording that benchmarks share."""

    data: Path | None = None

    def published(self) -> Sequence[Published]:
        return tuple(Published(**number) for number in _numbers().get(self.name, ()))

    # ---- files ------------------------------------------------------------------------------------

    hub = ""
    """The data set of the hub whose Parquet files may lie there instead."""
    hub_folders: ClassVar[tuple[str, ...]] = ("data", ".")

    def files(self) -> Sequence[Path]:
        return self.tables() or self.documents()

    @abstractmethod
    def documents(self) -> Sequence[Path]:
        """The files of the official layout."""

    def tables(self) -> list[Path]:
        """The Parquet files of the split, where the folder holds them as the hub does."""
        if not self.hub or self.data is None:
            return []
        names = (self.split, {"val": "validation"}.get(self.split, self.split), f"{self.split}2014")
        places = [Path(self.data, folder) for folder in self.hub_folders]
        found = [sorted(place.glob(f"{name}-*.parquet")) for place in places for name in dict.fromkeys(names)]
        return next(filter(None, found), [])

    def read(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """The rows of Parquet files, their pictures closed."""
        try:
            return [row for path in paths for row in table_rows(path)]
        except DataError as error:
            raise EvalError(f"task {self.name}: {error}") from None

    def table(self, *keys: str) -> list[dict[str, Any]]:
        """The rows of `tables`, their pictures closed."""
        paths = self.tables()
        return self.rows(self.read(paths), ", ".join(path.name for path in paths), *keys)

    def path(self, *names: str) -> Path:
        """The first of these files that is there.

        Raises:
            EvalError: none is; the message says what was looked for, and where to get it.
        """
        if self.data is None:
            raise EvalError(
                f"task {self.name} reads files, but no folder is given; give --data DIR with {self.needs}, "
                f"from {self.source}"
            )
        for name in names:
            if (path := self.data / name).exists():
                return path
        raise EvalError(
            f"task {self.name}: no {' or '.join(names)} in {self.data}; it needs {self.needs}, from {self.source}"
            + (f", or the Parquet files of {self.split} of huggingface.co/datasets/{self.hub}" if self.hub else "")
        )

    def image(self, *names: str) -> Path:
        """The first of these pictures or videos that is there; all of a task's are looked for before any is asked."""
        return self.path(*names)

    def json(self, *names: str) -> Any:
        """The contents of a JSON file."""
        path = self.path(*names)
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise EvalError(f"task {self.name}: {path} is no JSON ({error}); get it again from {self.source}") from None

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """The objects of a file with one JSON object a line."""
        path, found = self.path(*names), []
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise EvalError(f"task {self.name}: {path}:{number} is no JSON object; expected one on each line")
                found.append(row)
        return found

    def separated(self, *names: str) -> list[dict[str, str]]:
        """The rows of a TSV file with a header."""
        csv.field_size_limit(sys.maxsize)  # a cell may hold a picture
        with self.path(*names).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def rows(self, found: Any, path: str, *keys: str) -> list[dict[str, Any]]:
        """A list of objects that have all these keys, as a file of this layout must hold."""
        if not isinstance(found, list) or not found:
            what = "nothing" if found == [] else f"a {type(found).__name__}"
            raise EvalError(f"task {self.name}: {path} holds {what} where a list of questions was expected")
        for number, row in enumerate(found, start=1):
            lacking = [key for key in keys if key not in row] if isinstance(row, dict) else list(keys)
            if lacking:
                raise EvalError(
                    f"task {self.name}: entry {number} of {path} has no {', '.join(lacking)}; expected the layout of "
                    f"{self.source}: is it another file?"
                )
        return found

    def by_id(self, rows: Iterable[T], key: Callable[[T], Any], path: str) -> dict[str, T]:
        """Rows by their id, which each has for its own."""
        found: dict[str, T] = {}
        for row in rows:
            if (name := str(key(row))) in found:
                raise EvalError(f"task {self.name}: {name!r} is the id of several entries of {path}; take one out")
            found[name] = row
        return found

    def same_ids(self, asked: Mapping[str, Any], answered: Mapping[str, Any], questions: str, answers: str) -> None:
        """See that two files are about the same questions."""
        for one, other, here, there in ((asked, answered, questions, answers), (answered, asked, answers, questions)):
            if missing := [name for name in one if name not in other]:
                raise EvalError(
                    f"task {self.name}: {len(missing)} of the {len(one)} ids of {here} are not in {there}, the first "
                    f"one {missing[0]!r}; expected two files of the same split"
                )


def asked(image: Any, question: str) -> tuple[Message, ...]:
    """A question about a picture, which comes first; None for no picture."""
    parts: tuple[Part, ...] = (TextPart(question),)
    return (Message("user", (ImagePart(image), *parts) if image is not None else parts),)


def options(choices: Sequence[str]) -> str:
    """Choices to choose from, lettered and each on its line."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def part(records: Sequence[Record], key: str) -> Iterator[tuple[str, list[Record]]]:
    """Records by a value of their examples, in the order they come in."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if (value := record.example.meta.get(key)) is not None:
            groups.setdefault(str(value), []).append(record)
    yield from groups.items()


def breakdown(records: Sequence[Record], key: str, chance: float | None = None) -> tuple[Row, ...]:
    """A row for each value of `key`."""
    return tuple(mean(name, found, chance) for name, found in part(records, key))


@cache
def _numbers() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for number in json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8")):
        found.setdefault(number.pop("task"), []).append(number)
    return found
