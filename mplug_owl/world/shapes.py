"""A scene of one to six plain shapes: colours, sizes, places, how many there are and how they stand to each other.

It knows what stands where and how it is drawn; what is asked of it is in `shape_questions` and `shape_talk`.
"""

from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world import canvas
from mplug_owl.world.canvas import Canvas
from mplug_owl.world.chance import Split
from mplug_owl.world.scene import SIDE, Level, Place, Tongue, around
from mplug_owl.world.shape_art import COLOURS, SHAPES, draw_shape
from mplug_owl.world.shape_questions import questions
from mplug_owl.world.shape_talk import dialogue
from mplug_owl.world.shape_view import Thing, cell
from mplug_owl.world.shape_words import KEPT, PLACES, SIZES, THING, Name, phrase, word
from mplug_owl.world.wording import wordings

__all__ = ["describe", "dialogue", "draw", "key", "make", "places", "questions"]

_DIAMETERS = {"small": (0.145, 0.175), "large": (0.255, 0.3)}
_TURN = {"star": 36, "triangle": 30, "moon": 30, "heart": 20, "square": 18, "cross": 18, "circle": 0, "ring": 0}
_TRIES = 12  # for one thing, before the scene is laid out anew
_FEW = [0.2, 0.2, 0.16, 0.16, 0.14, 0.14]  # how often training has one thing, two things ...


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    if level == "easy":
        number = random.randint(1, 2)
    else:
        number = random.choices(range(1, 7), _FEW if split == "train" else None)[0]
    looks = _compositions(random, number, split)
    sizes = [random.choice(SIZES)] * number if random.random() < 0.25 else random.choices(SIZES, k=number)
    things, drawn = _lay_out(random, looks, sizes, apart=level == "easy")
    return {"things": things, "look": {**canvas.look(random), "things": drawn}}


def draw(graph: dict[str, Any], side: int = SIDE) -> list[Image.Image]:
    paper = Canvas(side, graph["look"])
    for thing, drawn in zip(graph["things"], graph["look"]["things"], strict=True):
        place = (thing["x"], thing["y"], drawn["diameter"], drawn["turn"], drawn["outline"])
        draw_shape(paper, thing["shape"], thing["colour"], *place, tint=drawn["tint"])
    return [paper.done()]


def describe(graph: dict[str, Any], random: Random, tongue: Tongue) -> str:
    """Every thing with its size, colour, shape and place, row by row or column by column."""
    rows = random.random() < 0.7
    things = sorted(graph["things"], key=lambda thing: cell(thing)[::-1] if rows else cell(thing))
    style = wordings("shapes")[tongue]["caption"]
    each, join = random.choice(style["thing"])
    listed = join.join(
        each.format(x=phrase(Name(t["size"], t["colour"], t["shape"]), tongue), place=word(t["place"], tongue))
        for t in things
    )
    things_word = phrase(THING, tongue)
    number = f"{len(things)} {things_word.one if len(things) == 1 else things_word.many}"
    text: str = random.choice(style["whole"]).format(things=listed, number=number)
    return text


def places(graph: dict[str, Any]) -> list[Place]:
    """Of each thing its middle: in the corners of its box there may be nothing of it."""
    return [
        Place(around(t["x"], t["y"], 0.8 * d["diameter"], 0.8 * d["diameter"]), (t["size"], t["colour"], t["shape"]))
        for t, d in zip(graph["things"], graph["look"]["things"], strict=True)
    ]


def key(graph: dict[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(sorted((t["shape"], t["colour"], t["size"], t["place"]) for t in graph["things"]))


def _compositions(random: Random, number: int, split: Split) -> list[tuple[str, str]]:
    """Colours and shapes, often of few kinds so that there is something to count; the kept ones only in tests."""
    colours = random.sample(list(COLOURS), random.choice([1, 2, 3, 6]))
    shapes = random.sample(SHAPES, random.choice([1, 2, 3, 6]))
    pairs = [(c, s) for c in colours for s in shapes if (c, s) not in KEPT]
    if not pairs:
        return _compositions(random, number, split)
    chosen = random.choices(pairs, k=number)
    if split == "test" and random.random() < 0.5:
        kept = random.choice(sorted(KEPT))
        chosen = [kept if pair == chosen[-1] else pair for pair in chosen]
    return chosen


def _lay_out(
    random: Random, looks: list[tuple[str, str]], sizes: list[str], apart: bool
) -> tuple[list[Thing], list[dict[str, Any]]]:
    """Things at different places of the picture and how each is drawn; some may overlap a little, unless `apart`."""
    shared = random.random() < 0.25
    outlines = random.choice([0.0, 0.0, 0.0, 0.5, 1.0])
    while True:
        things: list[Thing] = []
        drawn: list[dict[str, Any]] = []
        for (colour, shape), size, place in zip(looks, sizes, random.sample(PLACES, len(looks)), strict=True):
            diameter = random.uniform(*_DIAMETERS[size])
            thing: Thing = {"shape": shape, "colour": colour, "size": size, "place": place}
            for _ in range(_TRIES):
                thing["x"], thing["y"] = (_within(random, third, diameter) for third in cell(thing))
                room = [1.4 if apart else 0.85 if shared and t["colour"] != colour else 1.08 for t in things]
                if all(_distance(thing, t) > r * (diameter + d["diameter"]) / 2
                       for t, d, r in zip(things, drawn, room, strict=True)):  # fmt: skip
                    break
            else:
                break
            things.append(thing)
            drawn.append({
                "diameter": round(diameter, 3),
                "turn": random.randint(-_TURN[shape], _TURN[shape]),
                "outline": random.random() < outlines,
                "tint": [random.randint(-14, 14) for _ in range(3)],
            })  # fmt: skip
        if len(things) == len(looks):
            return things, drawn


def _within(random: Random, third: int, diameter: float) -> float:
    """A coordinate inside a third of the picture: clear of the other thirds, and of the picture's edge."""
    if third == 1:
        return round(random.uniform(0.39, 0.61), 3)
    near = random.uniform(0.58 * diameter + 0.01, 0.275)
    return round(near if third == 0 else 1 - near, 3)


def _distance(a: Thing, b: Thing) -> float:
    return float(((a["x"] - b["x"]) ** 2 + (a["y"] - b["y"]) ** 2) ** 0.5)
