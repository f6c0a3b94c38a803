"""Two pictures of things on an invisible grid of three by three, which are the same or differ in exactly one way.

It knows what differs and how to draw it; what can be asked is in `pair_questions`.
"""

from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world import canvas
from mplug_owl.world.canvas import Canvas
from mplug_owl.world.chance import Split
from mplug_owl.world.pair_questions import describe, dialogue, questions
from mplug_owl.world.scene import Level, choose
from mplug_owl.world.shape_art import draw_shape
from mplug_owl.world.shape_words import SIZES
from mplug_owl.world.things import Thing, composition, compositions, jitter, usable

__all__ = ["describe", "dialogue", "draw", "draw_frame", "key", "make", "questions"]

CHANGES = {"none": 0.4, "colour": 0.12, "shape": 0.12, "number": 0.14, "size": 0.11, "place": 0.11}
DIAMETERS = {"small": 0.155, "large": 0.275}
CELLS = 9
MOST = 5


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    simple = level == "easy" or (split == "train" and random.random() < 0.4)
    pairs = compositions(random, split, random.randint(1, 2 if simple else MOST))
    cells = random.sample(range(CELLS), len(pairs))
    first: list[Thing] = []
    for (colour, shape), cell in zip(pairs, cells, strict=True):
        size = "large" if level == "easy" else random.choice(SIZES)
        first.append({"shape": shape, "colour": colour, "size": size, "cell": cell})
    change = choose(random, CHANGES)
    second = _changed(random, first, change, split)
    pictures = [first, second]
    random.shuffle(pictures)  # a thing is as often added as taken away
    look = canvas.look(random) | {"spots": [jitter(random) for _ in range(CELLS)], "outline": random.random() < 0.3}
    look["seeds"] = [
        look["seed"],
        look["seed"] ^ 2,
    ]  # other noise, and the same slope of light, which is in the last bit
    return {"change": change, "pictures": pictures, "look": look}


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    """Both pictures, in any order."""
    return tuple(sorted(tuple(sorted(tuple(thing.values()) for thing in picture)) for picture in graph["pictures"]))


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    return [draw_frame(graph, index, side) for index in range(2)]


def draw_frame(graph: dict[str, Any], index: int, side: int) -> Image.Image:
    look = graph["look"]
    page = Canvas(side, look | {"seed": look["seeds"][index]})
    for thing in graph["pictures"][index]:
        right, down, turn, factor = look["spots"][thing["cell"]]
        x, y = thing["cell"] % 3 * 0.31 + 0.19 + right, thing["cell"] // 3 * 0.31 + 0.19 + down
        size = DIAMETERS[thing["size"]] * factor
        draw_shape(page, thing["shape"], thing["colour"], x, y, size, turn, look["outline"])
    return page.done()


def _changed(random: Random, things: list[Thing], change: str, split: Split) -> list[Thing]:
    """The things with one change, which leaves no two of the same colour and shape."""
    changed = [dict(thing) for thing in things]
    thing = random.choice(changed)
    taken = {composition(other) for other in changed}
    if change in ("colour", "shape"):
        keep = "shape" if change == "colour" else "colour"
        found = [(c, s) for c, s in usable(split) if {"colour": c, "shape": s}[keep] == thing[keep]]
        thing["colour"], thing["shape"] = random.choice([pair for pair in found if pair not in taken])
    elif change == "size":
        thing["size"] = SIZES[1 - SIZES.index(thing["size"])]
    elif change == "place":
        thing["cell"] = random.choice(_reached(thing["cell"], {other["cell"] for other in changed}))
    elif change == "number":
        colour, shape = random.choice([pair for pair in usable(split) if pair not in taken])
        free = [cell for cell in range(CELLS) if cell not in {other["cell"] for other in changed}]
        changed.append({"shape": shape, "colour": colour, "size": thing["size"], "cell": random.choice(free)})
    return changed


def _reached(cell: int, taken: set[int]) -> list[int]:
    """The free cells of the same row or column; any free cell where there is none."""
    free = [other for other in range(CELLS) if other not in taken]
    return [other for other in free if other % 3 == cell % 3 or other // 3 == cell // 3] or free
