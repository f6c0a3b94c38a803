"""Dice on a table, two to four, or dominoes: what each shows, and what all of them make together.

The truth is the numbers and colours from left to right. Some numbers are on dice of some colours in the test alone.
"""

from functools import cache
from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world import dominoes
from mplug_owl.world.canvas import Canvas, look
from mplug_owl.world.chance import Split, stream
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.pips import Tile, pip_colour, shaded
from mplug_owl.world.scene import Level, Place, Question, around
from mplug_owl.world.shape_art import COLOURS
from mplug_owl.world.wording import say

COLOURED = ("white", "red", "blue", "green", "yellow", "black", "purple", "orange")
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
PLURALS = {1: "ones", 2: "twos", 3: "threes", 4: "fours", 5: "fives", 6: "sixes"}
PLACES = {
    1: ("only",),
    2: ("left", "right"),
    3: ("leftmost", "middle", "rightmost"),
    4: ("leftmost", "second", "third", "rightmost"),
}
TABLES = ((40, 110, 70), (150, 105, 65), (45, 70, 120), (120, 40, 45), (205, 180, 140))
TRAIN_COUNTS, COUNTS = (0.45, 0.3, 0.25), (1, 1, 1)  # how often two, three and four dice


@cache
def kept_value(colour: str) -> int:
    """The one number that training never shows on a die of this colour."""
    return stream("die", colour).randint(1, 6)


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    shown = look(random)
    if random.random() < 0.4:
        shown["background"] = [max(0, min(255, part + random.randint(-15, 15))) for part in random.choice(TABLES)]
    if random.random() < 0.2:
        return dominoes.make(random, split, level, shown)
    if level == "easy":
        count = random.randint(1, 2)
    else:
        count = random.choices((2, 3, 4), TRAIN_COUNTS if split == "train" else COUNTS)[0]
    unseen, twins = split == "test" and random.random() < 0.5, count > 1 and random.random() < 0.5
    while True:
        values = [random.randint(1, 6) for _ in range(count)]
        same = random.random() < 0.25
        colours = [random.choice(COLOURED)] * count if same else random.sample(COLOURED, count)
        if _any_kept(values, colours) == unseen and (len(set(values)) < count) == twins:
            break
    shown["places"] = _places(random, count)
    shown["square"] = random.random() < 0.1
    return {"form": "dice", "values": values, "colours": colours, "look": shown}


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    if graph["form"] == "dominoes":
        return dominoes.key(graph)
    return ("dice", tuple(graph["values"]), tuple(graph["colours"]))


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    canvas, shown = Canvas(side, graph["look"]), graph["look"]
    if graph["form"] == "dominoes":
        dominoes.paint(canvas, graph)
        return [canvas.done()]
    for value, name, (x, y, size, degrees) in zip(graph["values"], graph["colours"], shown["places"], strict=True):
        colour = COLOURS[name]
        tile, pip = Tile(canvas, x, y, size, degrees), pip_colour(colour)
        edge = shaded(colour, 0.55) if pip[0] < 128 else (150, 150, 150)
        tile.board(1, 1, 0.18, colour, edge, shaded(canvas.look["background"], 0.6))
        tile.pips(value, 0, 0, 0.1, pip, shown["square"])
    return [canvas.done()]


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    if graph["form"] == "dominoes":
        return dominoes.describe(graph, random, tongue)
    listed = ", ".join(f"{colour} {value}" for colour, value in zip(graph["colours"], graph["values"], strict=True))
    return say("dice", "told_dice", random, "train", tongue, count=len(graph["values"]), list=listed)[0]


def places(graph: dict[str, Any]) -> list[Place]:
    if graph["form"] == "dominoes":
        return dominoes.places(graph)
    return [
        Place(around(x, y, 0.9 * size, 0.9 * size), (colour, str(value)))
        for value, colour, (x, y, size, _) in zip(
            graph["values"], graph["colours"], graph["look"]["places"], strict=True
        )
    ]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked = Inquiry("dice", "dice", random, split, tongue)
    if graph["form"] == "dominoes":
        dominoes.ask(asked, graph, random)
        return asked.shuffled()
    values: list[int] = graph["values"]
    _ask_each(asked, random, values, graph["colours"])
    asked.ask("count", len(values), "vision")
    if len(values) > 1:
        _ask_all(asked, random, values)
        best = [colour for colour, value in zip(graph["colours"], values, strict=True) if value == max(values)]
        if len(set(graph["colours"])) > 1 and len(best) == 1:
            asked.ask("highest_colour", best[0], "vision", "reasoning")
    return asked.shuffled()


def _ask_each(asked: Inquiry, random: Random, values: list[int], colours: list[str]) -> None:
    for place, value in zip(PLACES[len(values)], values, strict=True):
        asked.ask("side", value, "vision", place=place)
    spot = random.choice([0, len(values) - 1])
    asked.ask("colour_of", colours[spot], "vision", place=PLACES[len(values)][spot])
    if len(set(colours)) > 1:
        for spot in random.sample(range(len(values)), min(2, len(values))):
            asked.ask("coloured", values[spot], "vision", colour=colours[spot])


def _ask_all(asked: Inquiry, random: Random, values: list[int]) -> None:
    said = ", ".join(map(str, values))
    asked.ask("list", said, "vision", accept=(said.replace(",", ""), said.replace(", ", ",")))
    asked.ask("total", sum(values), "vision", "reasoning")
    asked.ask("highest", max(values), "vision", "reasoning")
    asked.ask("lowest", min(values), "vision", "reasoning")
    asked.ask("equal", len(set(values)) < len(values), "vision", "reasoning")
    more = random.random() < 0.5
    number = max(1, sum(values) - random.randint(1, 3)) if more else sum(values) + random.randint(0, 3)
    asked.ask("more_than", more, "vision", "reasoning", number=number)
    here = random.random() < 0.5
    number = random.choice([face for face in WORDS if (face in values) == here])
    asked.ask("any_value", here, "vision", word=WORDS[number])
    number = random.choice([random.choice(values), random.randint(1, 6)])
    asked.ask("count_value", values.count(number), "vision", word=WORDS[number], plural=PLURALS[number])
    if len(values) == 2 and values[0] != values[1]:
        asked.ask("more_side", "left" if values[0] > values[1] else "right", "vision", "reasoning")


def _any_kept(values: list[int], colours: list[str]) -> bool:
    return any(value == kept_value(colour) for colour, value in zip(colours, values, strict=True))


def _places(random: Random, count: int) -> list[list[float]]:
    """Where each die lies: x, y, size, degrees; from left to right in a row or in two, never in doubt which is next."""
    two_rows = count > 2 and random.random() < 0.6
    if two_rows:
        size, left, jump, turn = (0.3, 0.2, 0.23, 20.0) if count == 3 else (0.27, 0.17, 0.22, 18.0)
    else:
        size = (0.55, 0.38, 0.26, 0.2)[count - 1]
        left, jump, turn = 0.5 / count, random.uniform(0, 0.12), (30.0, 25.0, 18.0, 10.0)[count - 1]
    up = random.choice([-1, 1])
    gap = (1 - 2 * left) / max(1, count - 1)
    size *= random.uniform(0.88, 1.02)
    places = []
    for i in range(count):
        x = left + i * gap + random.uniform(-0.01, 0.01)
        y = 0.5 + up * (-1) ** i * jump + random.uniform(-0.03, 0.03)
        places.append([round(x, 4), round(y, 4), round(size, 4), round(random.uniform(-turn, turn), 1)])
    return places
