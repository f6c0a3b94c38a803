"""Coloured shapes as the things of pairs and videos: which there may be, what they are called, how one is jittered.

It knows no picture and no question.
"""

from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.shape_art import COLOURS, SHAPES
from mplug_owl.world.shape_words import KEPT

Thing = dict[str, Any]
Composition = tuple[str, str]  # a colour and a shape
EVERY: tuple[Composition, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SEEN = tuple(pair for pair in EVERY if pair not in KEPT)
UNSEEN = tuple(pair for pair in EVERY if pair in KEPT)


def compositions(random: Random, split: Split, count: int) -> list[Composition]:
    """Different colours on shapes; in half of the test's scenes one of them is new to whoever was trained."""
    chosen = random.sample(SEEN, count)
    if split == "test" and random.random() < 0.5:
        chosen[random.randrange(count)] = random.choice(UNSEEN)
    return chosen


def usable(split: Split) -> tuple[Composition, ...]:
    """The compositions that may be drawn and spoken of."""
    return EVERY if split == "test" else SEEN


def composition(thing: Thing) -> Composition:
    return thing["colour"], thing["shape"]


def name(thing: Thing) -> str:
    return f"{thing['colour']} {thing['shape']}"


def call(thing: Thing, among: list[Thing]) -> str:
    """The shortest name that tells a thing from the others."""
    return thing["shape"] if sole(thing, among) else name(thing)


def sole(thing: Thing, among: list[Thing]) -> bool:
    return sum(other["shape"] == thing["shape"] for other in among) == 1


def other_names(thing: Thing, among: list[Thing]) -> tuple[str, ...]:
    """Besides colour and shape: what is as right in an answer."""
    full = name(thing)
    bare = (thing["shape"], f"the {thing['shape']}") if sole(thing, among) else ()
    return (f"the {full}", f"a {full}", f"an {full}", *bare)


def nouns(things: list[Thing]) -> set[str]:
    """All that there is one of: stars, and red stars."""
    return {thing["shape"] for thing in things} | {name(thing) for thing in things}


def near(split: Split, nouns: set[str]) -> set[str]:
    """What is none of these, but its colour or its shape is; and the other shapes."""
    words = {word for noun in nouns for word in noun.split()}
    halves = {f"{colour} {shape}" for colour, shape in usable(split) if (colour in words) != (shape in words)}
    return halves | {shape for shape in SHAPES if shape not in words}


def jitter(random: Random) -> list[float]:
    """How far a thing is from where it should be, how much it is turned, and how much larger than its size it is."""
    return [
        round(random.uniform(-0.025, 0.025), 4),
        round(random.uniform(-0.025, 0.025), 4),
        round(random.uniform(-14, 14), 1),
        round(random.uniform(0.93, 1.07), 3),
    ]
