"""Small tasks and contestants whose answers are known; shared by the tests of evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mplug_owl import ImagePart, Message, TextPart
from mplug_owl.eval.endpoints import Failure, Said
from mplug_owl.eval.task import Example, Task

COLOURS = ("red", "green", "blue", "orange", "white", "black")


@dataclass(frozen=True)
class Sums(Task):
    name = "sums"
    about = "additions"
    needs = "nothing"
    max_new_tokens = 8

    count: int = 20
    twice: bool = False

    def examples(self) -> Iterator[Example]:
        for number in range(self.count):
            name = f"sum/{0 if self.twice else number}"
            yield Example(name, (Message("user", f"{number} + 1?"),), (str(number + 1),), {"number": number})


@dataclass(frozen=True)
class Chains(Task):
    """Dialogues of three turns: a number, and twice one more than the answer before."""

    name = "chains"
    about = "dialogues about the model's own answers"
    needs = "nothing"

    count: int = 4

    def examples(self) -> Iterator[Example]:
        for number in range(self.count):
            first = f"chain/{number}/0"
            yield Example(first, (Message("user", f"{number} + 1?"),), (str(number + 1),))
            for turn in (1, 2):
                asked = (Message("user", "and one more?"),)
                yield Example(
                    f"chain/{number}/{turn}", asked, (str(number + turn + 1),), follows=f"chain/{number}/{turn - 1}"
                )


@dataclass(frozen=True)
class Pictures(Task):
    """Questions of several lengths about small pictures."""

    name = "pictures"
    about = "colours"
    needs = "nothing"
    max_new_tokens = 6

    count: int = 6

    def examples(self) -> Iterator[Example]:
        for number in range(self.count):
            colour = COLOURS[number % len(COLOURS)]
            words = "What colour" + " and what shape" * (number % 3) + " is this?"
            message = Message("user", (ImagePart(disc(colour, 40 + 7 * number)), TextPart(words)))
            yield Example(f"picture/{number}", (message,), (colour,))


def disc(colour: str, side: int = 56) -> Image.Image:
    picture = Image.new("RGB", (side, side), "grey")
    ImageDraw.Draw(picture).ellipse((4, 4, side - 9, side - 4), fill=colour)
    return picture


@dataclass
class Adder:
    """Adds one to the last number said, but for what it gets wrong or cannot answer; falls down after some answers."""

    wrong: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    falls_after: int = 10**9
    weights: str = "w"
    asked: list[str] = field(default_factory=list)

    def card(self) -> dict[str, Any]:
        return {"name": "adder", "weights": self.weights}

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
        for messages in conversations:
            if len(self.asked) == self.falls_after:
                raise KeyboardInterrupt
            self.asked.append(messages[-1].text)
            words = " ".join(message.text for message in messages).replace("+ 1", "").replace(".", " ").split()
            number = [int(word.rstrip("?")) for word in words if word.rstrip("?").isdecimal()][-1]
            if number in self.silent:
                yield Failure("it has no words")
            else:
                yield "\u2028no\x85idea \u0109" if number in self.wrong else f"{number + 1}."


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
