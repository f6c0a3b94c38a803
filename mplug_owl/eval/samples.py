"""The answers of a run on disk: a line each, appended as they come, by one worker or by several.

Each worker appends to a file of its own and reads all of them, so a run goes on with any number of workers; when all
is answered one file holds everything in the order of the examples. What is asked and what is right is not known here.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import Failure, Said
from mplug_owl.eval.task import Example, Record

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class Shard:
    """One of several workers that share a run: the `number`th of `count`, from 0."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise EvalError(
                f"shard {self.number}/{self.count}; expected 0/{self.count} to {self.count - 1}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Of words such as `0/4`."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise EvalError(f"shard {text!r}; expected a number and a count such as 0/4")
        return cls(int(number), int(count))

    @classmethod
    def of_environment(cls) -> "Shard":
        """As torchrun and most schedulers say it: RANK of WORLD_SIZE."""
        rank, size = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
        return cls.read(f"{rank}/{size}") if rank is not None and size is not None else cls()

    @property
    def file(self) -> str:
        return SAMPLES if self.count == 1 else f"samples-{self.number}-of-{self.count}.jsonl"

    def own(self, groups: Mapping[str, str]) -> set[str]:
        """The ids that this worker asks, of ids with their groups; a group is never torn apart."""
        places = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
        return {name for name, group in groups.items() if places[group] % self.count == self.number}


def groups(examples: Sequence[Example]) -> dict[str, str]:
    """What each example is only scored together with, by ids; a dialogue is a group.

    Raises: EvalError where an id comes twice, or a turn before the one it follows.
    """
    found: dict[str, str] = {}
    for example in examples:
        if example.id in found:
            raise EvalError(f"{example.id!r} is the id of several examples; expected examples with an id each")
        if example.follows is not None and example.follows not in found:
            raise EvalError(f"{example.id!r} follows {example.follows!r}, which does not come before it")
        found[example.id] = example.group or (found[example.follows] if example.follows else example.id)
    return found


def limited(examples: Sequence[Example], limit: int) -> list[Example]:
    """So many groups, evenly spread over all, with everything that belongs to them."""
    of_group = groups(examples)
    names = list(dict.fromkeys(of_group.values()))
    kept = {names[place * len(names) // limit] for place in range(limit)} if limit < len(names) else set(names)
    return [example for example in examples if of_group[example.id] in kept]


# ---- lines ---------------------------------------------------------------------------------------


def line(record: Record, prompt: Sequence[Mapping[str, str]]) -> str:
    """The line of a record; `prompt` is all that came before the answer."""
    example = record.example
    row: dict[str, Any] = {
        "id": example.id,
        "prompt": list(prompt),
        "reference": list(example.answers),
        "answer": record.answer,
        "correct": record.score.correct,
        "read": record.score.read,
        "meta": example.meta,
    }
    if record.error is not None:
        row["error"] = record.error
    return json.dumps(row, ensure_ascii=False) + "\n"


def load(folder: Path, own: str, known: Collection[str]) -> dict[str, Said]:
    """What is answered by id, whichever worker wrote it.

    A last line cut short is taken away from the file called `own`; of another file its worker may be writing it.

    Raises:
        EvalError: a line is no answer, or answers what is not asked, or what another line answers otherwise.
    """
    while True:
        found: dict[str, Said] = {}
        try:
            for path in sorted(folder.glob("samples*.jsonl")):
                _add(found, _lines(path, mend=path.name == own), path, known)
            return found
        except FileNotFoundError:
            # Another worker was the last one and put all files together: read that one.
            continue


def _lines(path: Path, mend: bool) -> list[str]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if mend and whole != text:
        write(path, whole)
    return whole.split("\n")[:-1]


def _add(found: dict[str, Said], lines: Sequence[str], path: Path, known: Collection[str]) -> None:
    here: dict[str, Said] = {}
    for number, text in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(text)
            name, said = row["id"], Failure(row["error"]) if "error" in row else row["answer"]
        except (ValueError, KeyError, TypeError):
            raise EvalError(f"{where} is no answer; take the line away, or give another folder") from None
        if name not in known:
            raise EvalError(f"{where}: {name!r} is none of this task's examples; give another folder")
        if isinstance(here.get(name), str):
            raise EvalError(f"{where}: {name!r} is answered twice; give another folder")
        here[name] = said
    for name, said in here.items():
        before = found.get(name)
        if isinstance(before, str) and isinstance(said, str) and before != said:
            raise EvalError(f"{path}: {name!r} is answered otherwise than in the files before it; give another folder")
        if not isinstance(before, str):
            found[name] = said


def join(folder: Path, text: str) -> None:
    """Make one file of those of all workers."""
    write(folder / SAMPLES, text)
    for path in folder.glob("samples-*-of-*.jsonl"):
        path.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
