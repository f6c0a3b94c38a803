"""Dominoes: one tile or two, upright or lying, each with two numbers from nought to six.

A part of the dice: it is asked of in their words, and draws on a canvas that is there already.
"""

from random import Random
from typing import Any

from mplug_owl.world.canvas import Canvas
from mplug_owl.world.chance import Split
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.pips import Tile, pip_colour, shaded
from mplug_owl.world.scene import Level, Place, around
from mplug_owl.world.shape_art import COLOURS
from mplug_owl.world.wording import say

COLOURED = ("white", "black", "red", "blue", "green", "yellow")


def make(random: Random, split: Split, level: Level, look: dict[str, Any]) -> dict[str, Any]:
    count = 1 if level == "easy" or random.random() < (0.6 if split == "train" else 0.5) else 2
    tiles = [_tile(random) for _ in range(count)]
    upright = random.random() < 0.5
    places = []
    for i in range(count):
        across, along = 0.5 if count == 1 else (0.27, 0.73)[i], 0.5
        across, along = across + random.uniform(-0.02, 0.02), along + random.uniform(-0.05, 0.05)
        size = (0.41 if count == 1 else 0.36) * random.uniform(0.85, 1)
        x, y = (across, along) if upright else (along, across)
        places.append([round(x, 4), round(y, 4), round(size, 4), round(random.uniform(-10, 10), 1)])
    look = {**look, "places": places, "square": False}
    return {"form": "dominoes", "tiles": tiles, "upright": upright, "colour": random.choice(COLOURED), "look": look}


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    return ("dominoes", tuple(map(tuple, graph["tiles"])), graph["upright"], graph["colour"])


def paint(canvas: Canvas, graph: dict[str, Any]) -> None:
    colour = COLOURS[graph["colour"]]
    pip = pip_colour(colour)
    edge = shaded(colour, 0.55) if pip[0] < 128 else (150, 150, 150)
    for (first, second), (x, y, size, degrees) in zip(graph["tiles"], graph["look"]["places"], strict=True):
        tile = Tile(canvas, x, y, size, degrees if graph["upright"] else degrees - 90)  # the upper half to the left
        tile.board(1, 2, 0.14, colour, edge, shaded(canvas.look["background"], 0.6))
        tile.bar((-0.4, 0), (0.4, 0), 0.05, edge)
        tile.pips(first, 0, -0.5, 0.095, pip, graph["look"]["square"])
        tile.pips(second, 0, 0.5, 0.095, pip, graph["look"]["square"])


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    first, second = _halves(graph)
    if len(graph["tiles"]) == 1:
        a, b = graph["tiles"][0]
        words = {"colour": graph["colour"], "a": a, "b": b, "first": first, "second": second}
        return say("dice", "told_domino", random, "train", tongue, **words)[0]
    one, two = (f"{first} {a}, {second} {b}" for a, b in graph["tiles"])
    names = _names(graph)
    return say("dice", "told_dominoes", random, "train", tongue, one=one, two=two, left=names[0], right=names[1])[0]


def places(graph: dict[str, Any]) -> list[Place]:
    """Of each half its number; the tile may be turned a little, which is small beside a half."""
    found = []
    for values, (x, y, size, _) in zip(graph["tiles"], graph["look"]["places"], strict=True):
        for value, side in zip(values, (-size / 2, size / 2), strict=True):
            middle = (x, y + side) if graph["upright"] else (x + side, y)
            found.append(Place(around(*middle, 0.85 * size, 0.85 * size), (graph["colour"], str(value))))
    return found


def ask(asked: Inquiry, graph: dict[str, Any], random: Random) -> None:
    tiles, halves = graph["tiles"], _halves(graph)
    asked.ask("dominoes", len(tiles), "vision")
    asked.ask("all_total", sum(map(sum, tiles)), "vision", "reasoning")
    for name, tile in zip(_names(graph), tiles, strict=True):
        for half, value in zip(halves, tile, strict=True):
            if len(tiles) == 1:
                asked.ask("half", value, "vision", half=half)
            else:
                asked.ask("half_of", value, "vision", half=half, tile=name)
        asked.ask("tile_total", sum(tile), "vision", "reasoning", tile=name)
        if tile[0] == tile[1] or random.random() < 0.5:  # doubles are a third
            asked.ask("double", tile[0] == tile[1], "vision", "reasoning", tile=name)


def _tile(random: Random) -> list[int]:
    first = random.randint(0, 6)
    return [first, first if random.random() < 1 / 3 else random.choice([i for i in range(7) if i != first])]


def _halves(graph: dict[str, Any]) -> tuple[str, str]:
    return ("upper", "lower") if graph["upright"] else ("left", "right")


def _names(graph: dict[str, Any]) -> tuple[str, ...]:
    """What tells the tiles apart: a lone one is named by its colour."""
    if len(graph["tiles"]) == 1:
        return (graph["colour"],)
    return ("left", "right") if graph["upright"] else ("upper", "lower")
