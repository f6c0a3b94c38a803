"""A scene: one drawn thing with its whole truth, and what can be asked of it.

Each kind of scene is a module of this package with five functions over a plain JSON graph:

    make(random, split, level) -> graph    truth, and under "look" all that only decides how it is drawn
    draw(graph, side) -> [pictures]        one picture, a pair, or the frames of a video; a function of the graph alone
    describe(graph, random, tongue) -> str everything true that can be asked, in words
    questions(graph, random, split, tongue) -> [Question]
    key(graph) -> value                    the truth without its look: what must not be in two splits

A kind may have a sixth, for those who learn to see before they learn to answer:

    places(graph) -> [Place]               what is where in its one picture, in words

A scene belongs to the split of its key, so no truth is in two of them. Nothing here knows rows, files or models.
"""

import importlib
from dataclasses import dataclass
from functools import cached_property
from random import Random
from types import ModuleType
from typing import Any, Literal, NamedTuple

from PIL import Image

from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.messages import ImagePart, VideoPart
from mplug_owl.world.chance import Split, check_split, split_of, stream

Level = Literal["easy", "standard"]
LEVELS: tuple[Level, ...] = ("easy", "standard")
Tongue = Literal["en", "eo"]
SIDE = 96  # pixels of a picture, unless another side is asked for
KINDS = ("shapes", "dice", "clock", "flag", "sign", "chart", "table", "flowchart", "pair", "video")
PAIRS, MOVES = ("pair",), ("video",)  # kinds of two pictures, and of frames
PLACED = ("shapes", "dice", "clock", "flag", "sign")  # kinds that say what is where
ABILITIES = ("instruction", "vision", "ocr", "knowledge", "reasoning", "multi-turn")  # OwlEval's six
SKILLS = (
    *("existence", "attributes", "counting", "relations", "dice", "clocks", "flags", "ocr", "charts", "tables"),
    *("flowcharts", "pairs", "video", "text", "form", "turns", "knowledge", "language"),
)


@dataclass(frozen=True)
class Question:
    """One question and its right answer."""

    skill: str
    text: str
    answer: str
    template: str
    """Which wording this is, such as "counting/3": a test of unseen wordings needs to know."""
    abilities: tuple[str, ...]
    accept: tuple[str, ...] = ()
    """Other answers that are as right."""
    needs_picture: bool = True

    def __post_init__(self) -> None:
        assert self.skill in SKILLS and set(self.abilities) <= set(ABILITIES), self


class Place(NamedTuple):
    """A part of a picture and the words that are true of it."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in shares of the side."""
    words: tuple[str, ...]


def around(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """The box with this middle."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


@dataclass(frozen=True)
class Scene:
    kind: str
    graph: dict[str, Any]
    split: Split
    seed: tuple[Any, ...]

    @property
    def module(self) -> ModuleType:
        return kind_module(self.kind)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return (self.kind, self.module.key(self.graph))

    def draw(self, side: int = SIDE) -> list[Image.Image]:
        pictures: list[Image.Image] = self.module.draw(self.graph, side)
        return pictures

    def describe(self, tongue: Tongue = "en") -> str:
        text: str = self.module.describe(self.graph, stream("describe", *self.seed), tongue)
        return text

    def questions(self, tongue: Tongue = "en") -> list[Question]:
        found: list[Question] = self.module.questions(
            self.graph, stream("questions", tongue, *self.seed), self.split, tongue
        )
        return found

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """What is where; nothing of a kind that does not say."""
        return tuple(self.module.places(self.graph)) if self.kind in PLACED else ()

    def parts(self, side: int = SIDE) -> list[ImagePart | VideoPart]:
        """The scene as media of a message; nothing is drawn before they are opened."""
        if self.kind in MOVES:
            return [VideoPart([Drawing(self, i, side) for i in range(self.module.FRAMES)], self.module.FRAMES)]
        return [ImagePart(Drawing(self, i, side)) for i in range(2 if self.kind in PAIRS else 1)]


@dataclass(frozen=True)
class Drawing:
    """A picture of a scene that is drawn when somebody looks at it."""

    scene: Scene
    index: int = 0
    side: int = SIDE

    def picture(self) -> Image.Image:
        module = self.scene.module
        if hasattr(module, "draw_frame"):  # a kind that can draw one frame without the others
            frame: Image.Image = module.draw_frame(self.scene.graph, self.index, self.side)
            return frame
        return self.scene.draw(self.side)[self.index]

    def __str__(self) -> str:
        return f"drawing {self.index} of {self.scene.kind} {self.scene.seed}"


def kind_module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of scene {kind!r}{did_you_mean(kind, KINDS)}")
    return importlib.import_module(f"mplug_owl.world.{kind}")


def make(kind: str, number: int | str, split: Split = "train", level: Level = "standard") -> Scene:
    """Scene `number` of a kind: the same for ever, and its truth in no other split."""
    check_split(split)
    if level not in LEVELS:
        raise ConfigError(f"unknown level {level!r}{did_you_mean(level, LEVELS)}")
    module = kind_module(kind)
    seed = (kind, split, level, number)
    random = stream("scene", *seed)
    while True:
        graph = module.make(random, split, level)
        if split_of(kind, module.key(graph)) == split:
            return Scene(kind, graph, split, seed)


def choose(random: Random, options: dict[str, float]) -> str:
    """One of the options, by weight."""
    return random.choices(list(options), weights=list(options.values()))[0]
