"""The questions of OwlEval as they are published: `questions.jsonl` with the pictures in `cases/`.

A question belongs to the single-turn view, to the multi-turn view or to both; the turns about one picture are a
dialogue. Questions of text alone, as Vicuna-bench's, have the same form here. Who answers, and what answers are worth,
is not known.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mplug_owl.errors import EvalError
from mplug_owl.messages import ImagePart, Message, TextPart

View = Literal["single_turn", "multi_turn"]
VIEWS: tuple[View, ...] = get_args(View)
ABILITIES = {
    "a": "instruction understanding",
    "b": "visual understanding",
    "c": "optical character recognition",
    "d": "knowledge transfer",
    "e": "reasoning",
    "f": "multi-turn dialogue",
}
FILE, PICTURES = "questions.jsonl", "cases"
TEXTS = "question.jsonl"  # of Vicuna-bench
SOURCE = "github.com/X-PLUG/mPLUG-Owl, folder mPLUG-Owl/OwlEval (questions.jsonl, cases/, answer/)"
LICENCE = "Apache-2.0; the pictures belong to their owners"
OFFICIAL = "19a2fb0d2c17d6c3"  # of the file at commit 0f3068f


@dataclass(frozen=True)
class Question:
    id: int
    text: str
    picture: Path | None
    abilities: tuple[str, ...]
    """Letters of `ABILITIES` that it asks for."""
    views: tuple[View, ...]
    after: int | None
    """The question before it in its dialogue."""

    def message(self) -> Message:
        """What the user says; the picture comes with the first turn."""
        words = TextPart(self.text.strip())
        shown = () if self.picture is None or self.after is not None else (ImagePart(str(self.picture)),)
        return Message("user", (*shown, words))


@dataclass(frozen=True)
class Questions:
    """All of them, by their ids in the order of the file."""

    folder: Path
    by_id: dict[int, Question]
    revision: str
    """The beginning of the SHA-256 of the file."""

    def __iter__(self) -> Iterator[Question]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def __getitem__(self, id: int) -> Question:
        return self.by_id[id]

    @property
    def official(self) -> bool:
        """Whether it is the published file to the byte."""
        return self.revision == OFFICIAL

    def view(self, view: View) -> list[Question]:
        return [question for question in self if view in question.views]

    def dialogue(self, id: int) -> list[Question]:
        """The turns that lead to a question, itself last."""
        turns = [self[id]]
        while (before := turns[0].after) is not None:
            turns.insert(0, self[before])
        return turns


def read_questions(folder: Path) -> Questions:
    """Read a folder in the published layout.

    Raises: EvalError where a file is missing or holds something else.
    """
    path = folder / FILE
    rows = read_rows(path, f"expected the folder of OwlEval, from {SOURCE}")
    found: dict[int, Question] = {}
    last: dict[Path | None, int] = {}
    for where, row in rows:
        question = _question(where, row, folder, last)
        _add(found, question, where)
        if "multi_turn" in question.views:
            last[question.picture] = question.id
    missing = sorted({q.picture.name for q in found.values() if q.picture and not q.picture.is_file()})
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise EvalError(
            f"{folder / PICTURES} lacks {len(missing)} of the pictures that are asked about ({shown}); "
            f"copy the folder {PICTURES}/ from {SOURCE}"
        )
    return Questions(folder, found, _revision(path))


def read_any(folder: Path) -> Questions:
    """OwlEval's questions, or those of text alone where the folder has the layout of Vicuna-bench."""
    path = folder / TEXTS
    if (folder / FILE).exists() or not path.exists():
        return read_questions(folder)
    found: dict[int, Question] = {}
    for where, row in read_rows(path, "expected the questions of Vicuna-bench"):
        id, turns = row.get("question_id"), row.get("turns")
        if type(id) is not int:
            raise EvalError(f"{where}: question_id is {id!r}; expected a whole number")
        if not isinstance(turns, list) or len(turns) != 1 or not isinstance(turns[0], str):
            raise EvalError(f"{where}: turns is {turns!r}; expected a list with one text, as in Vicuna-bench")
        _add(found, Question(id, turns[0], None, (), ("single_turn",), None), where)
    return Questions(folder, found, _revision(path))


def _add(found: dict[int, Question], question: Question, where: str) -> None:
    if question.id in found:
        raise EvalError(f"{where}: question_id {question.id} is there already; each question has its own")
    found[question.id] = question


def _revision(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[: len(OFFICIAL)]


def read_rows(path: Path, hint: str) -> Sequence[tuple[str, dict[str, Any]]]:
    """The objects of a jsonl file with where each stands; `hint` says what to do if there is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise EvalError(f"{path} cannot be read ({error.strerror}); {hint}") from None
    except UnicodeDecodeError:
        raise EvalError(f"{path} is no text in UTF-8; {hint}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise EvalError(f"{where} is no JSON ({error}); {hint}") from None
        if not isinstance(row, dict):
            raise EvalError(f"{where} is a {type(row).__name__}, expected an object; {hint}")
        rows.append((where, row))
    if not rows:
        raise EvalError(f"{path} is empty; {hint}")
    return rows


def _question(where: str, row: dict[str, Any], folder: Path, last: dict[Path | None, int]) -> Question:
    id, image, text, ability, category = (
        row.get(key) for key in ("question_id", "image", "question", "ability", "category")
    )
    if type(id) is not int:
        raise EvalError(f"{where}: question_id is {id!r}; expected a whole number")
    if not isinstance(text, str) or not text.strip():
        raise EvalError(f"{where}: question is {text!r}; expected its text")
    if not isinstance(image, str) or Path(image).name != image:
        raise EvalError(f"{where}: image is {image!r}; expected the name of a file in {PICTURES}/")
    if not isinstance(ability, str):
        raise EvalError(
            f"{where} has no ability; expected letters as 'a,b' (files from before 2023-06-28 lack them; take the "
            f"present one from {SOURCE})"
        )
    abilities = tuple(dict.fromkeys(letter.strip() for letter in ability.split(",")))
    if not set(abilities) <= set(ABILITIES):
        raise EvalError(f"{where}: ability is {ability!r}; expected letters of {','.join(ABILITIES)}")
    if not isinstance(category, list) or not category or not set(category) <= set(VIEWS):
        raise EvalError(f"{where}: category is {category!r}; expected a list of {' and '.join(VIEWS)}")
    picture = folder / PICTURES / image
    after = last.get(picture) if "multi_turn" in category else None
    views = tuple(view for view in VIEWS if view in category)
    return Question(id, text, picture, abilities, views, after)
