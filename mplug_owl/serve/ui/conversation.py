"""A conversation in a page: questions with what was shown, and their answers.

Its forms are three: what an owl reads, what a page shows, what is written down. How it came about is not known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mplug_owl.messages import Message, TextPart
from mplug_owl.serve.ui.parameters import Parameters
from mplug_owl.serve.ui.upload import Upload

SILENCE = "(no words: the answer ended at once)"


@dataclass(frozen=True)
class Turn:
    """A question and, once there is one, its answer."""

    question: str
    uploads: tuple[Upload, ...] = ()
    answer: str | None = None
    model: str = ""
    """Who answered."""
    parameters: Parameters = field(default_factory=Parameters)
    """How it was asked to."""
    ended: str = ""
    """Why the answer ended: stop, length, or abort where somebody stopped it."""
    rating: str | None = None
    """"up" or "down", where somebody gave it a thumb."""


def messages(turns: Sequence[Turn]) -> list[Message]:
    """What an owl is asked. Raises: DataError where a file is gone."""
    found = []
    for turn in turns:
        words = (TextPart(turn.question),) if turn.question else ()
        found.append(Message("user", (*(upload.part() for upload in turn.uploads), *words)))
        if turn.answer is not None:
            found.append(Message("assistant", turn.answer))
    return found


def shown(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """What a page shows: a message for each question, with its media in front, and one for each answer."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        content = [upload.shown() for upload in turn.uploads]
        if turn.question or not content:
            content.append(_text(turn.question))
        found.append({"role": "user", "content": content})
        if turn.answer is not None:
            said = turn.answer if turn.answer or not turn.ended else SILENCE
            found.append({"role": "assistant", "content": [_text(said)]})
    return found


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def turn_at(turns: Sequence[Turn], index: Any) -> int:
    """Which turn a message of `shown` belongs to; a page names it by its place, or by that and the part's."""
    place = index[0] if isinstance(index, list | tuple) and index else index
    seen = 0
    if isinstance(place, int) and place >= 0:
        for number, turn in enumerate(turns):
            seen += 1 if turn.answer is None else 2
            if place < seen:
                return number
    raise IndexError(f"message {index!r} of {seen}")


def record(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """What is written down of it; media by their hashes."""
    return [
        {
            "question": turn.question,
            "media": [upload.record() for upload in turn.uploads],
            "answer": turn.answer,
            "model": turn.model,
            "parameters": turn.parameters.record(),
            "ended": turn.ended,
            "rating": turn.rating,
        }
        for turn in turns
    ]


def keep(turns: Sequence[Turn], records: Path) -> None:
    """Copy what was shown into a folder beside the file of the records, each file once.

    Raises: DataError where one cannot be copied.
    """
    for turn in turns:
        for upload in turn.uploads:
            upload.keep(records.parent / f"{records.stem}-media")
