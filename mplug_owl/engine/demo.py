"""`owl demo`: the owlet answers questions about pictures that come with the package, and is told whether it was right.

The pictures are drawn, so the right answers are known; they lie beside them in `questions.json`. What draws them is
not known here.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mplug_owl.engine.talk import Talk, media_kind, media_part
from mplug_owl.errors import DataError

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl

PICTURES = Path(__file__).resolve().parents[1] / "assets" / "demo"
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Asked:
    """A picture or a video, and the questions that are asked about it, each with the answers that are right."""

    path: Path
    questions: tuple[tuple[str, tuple[str, ...]], ...]


def run(owl: "Owl", folder: Path = PICTURES) -> None:
    """Ask about every picture of `folder`, say what was right, and on a terminal go on with what people ask."""
    total = sum(weight.numel() for weight in owl.model.parameters())
    print(f"an owl of {total:,} parameters, on this machine's {owl.model.device.type}; the pictures are drawn\n")
    verdicts = [verdict for asked in read(folder) for verdict in ask(owl, asked)]
    print(f"{sum(verdicts)} of {len(verdicts)} right")
    if sys.stdin.isatty() and sys.stdout.isatty():
        print("\nNow you: /image PATH shows it a picture. It knows drawn ones only.")
        Talk(owl, {"max_new_tokens": MAX_NEW_TOKENS}, None, []).loop()


def read(folder: Path) -> Iterator[Asked]:
    """What is asked about the pictures of a folder."""
    page = folder / "questions.json"
    try:
        for row in json.loads(page.read_text(encoding="utf-8")):
            questions = ((question["text"], tuple(question["answers"])) for question in row["questions"])
            yield Asked(folder / row["file"], tuple(questions))
    except FileNotFoundError:
        raise DataError(f"{page} is not here; draw the pictures with `owl demo --draw {folder}`") from None


def ask(owl: "Owl", asked: Asked) -> Iterator[bool]:
    """Ask in one conversation, printing the answers as they come; whether each is right."""
    kind = media_kind(str(asked.path))
    assert kind is not None
    talk = Talk(owl, {"max_new_tokens": MAX_NEW_TOKENS}, None, [media_part(kind, str(asked.path), None)])
    print(shown(asked.path))
    for question, answers in asked.questions:
        print(f"> {question}")
        talk.ask(question)
        right = plain(talk.history[-1].text) in map(plain, answers)
        print("  right\n" if right else f"  wrong: {answers[0]}\n")
        yield right


def plain(answer: str) -> str:
    """An answer without what does not make it another."""
    return " ".join(answer.casefold().strip().rstrip(".!").split())


def shown(path: Path) -> str:
    """A path as short as it can be given from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
