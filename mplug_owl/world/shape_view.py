"""A look at the shapes of one scene: which names fit which of them, which stand clearly apart, and how to ask.

All chance of the asking is in one random stream. It knows nothing of how the shapes are drawn.
"""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from mplug_owl.world.chance import Split
from mplug_owl.world.scene import Question, Tongue
from mplug_owl.world.shape_words import KEPT, PLACES, THING, VALUES, Name, phrase, word
from mplug_owl.world.wording import say

Thing = dict[str, Any]
Axis = Literal["x", "y"]
APART = 0.15  # nearer than this along an axis, nothing is called left of or above another

_MARKS: tuple[tuple[str, ...], ...] = (
    *(("shape",), ("colour", "shape"), ("colour",), ("size", "shape"), ("size", "colour", "shape")),
    *(("size", "colour"), ("size",)),
)
_SOUGHT = (0.7, 0.7, 1.3, 1.8, 2.2, 2.8, 3.4)  # how much a count of 0, 1 ... 6 is, as scenes with many are rare


class View:
    def __init__(self, things: list[Thing], random: Random, split: Split, tongue: Tongue) -> None:
        self.things, self.random, self.split, self.tongue = things, random, split, tongue
        self.names = {
            id(thing): [Name(**{mark: thing[mark] for mark in marks}) for marks in _MARKS] for thing in things
        }
        self.counts = Counter(name for names in self.names.values() for name in names)
        self.counts[THING] = len(things)
        self.own = {thing: [name for name in names if self.counts[name] == 1] for thing, names in self.names.items()}

    # Things and their names.

    def subjects(self) -> list[Thing]:
        """All things, by chance; in half of the tests the compositions that training never saw come first."""
        things = self.random.sample(self.things, len(self.things))
        if self.split == "test" and self.random.random() < 0.5:
            things.sort(key=lambda thing: (thing["colour"], thing["shape"]) not in KEPT)
        return things

    def fitting(self, name: Name) -> list[Thing]:
        """All that a name fits."""
        return [thing for thing in self.things if name == THING or name in self.names[id(thing)]]

    def name(self, thing: Thing, *hidden: str) -> Name | None:
        """A name that fits this thing alone and does not give away the hidden marks."""
        fitting = [name for name in self.own[id(thing)] if not any(getattr(name, mark) for mark in hidden)]
        return self.random.choice(fitting) if fitting else None

    def named(self, *hidden: str) -> Iterator[tuple[Thing, Name]]:
        """The things that have a name of their own, by chance."""
        for thing in self.subjects():
            name = self.name(thing, *hidden)
            if name is not None:
                yield thing, name

    def sought(self) -> Name:
        """A name to count by, so that every number of fitting things is asked for, none and many too."""
        by_count: dict[int, list[Name]] = {}
        for name, count in self.counts.items():
            by_count.setdefault(count, []).append(name)
        by_count[0] = [self.absent(self.random.choice(self.names[id(self.subjects()[0])][:-1]))]
        count = self.random.choices(list(by_count), [_SOUGHT[c] for c in by_count])[0]
        return self.random.choice(by_count[count])

    def speakable(self, name: Name) -> bool:
        """Whether a name may be said in this split."""
        return self.split == "test" or not name.kept

    def absent(self, like: Name) -> Name:
        """A name that fits nothing here though it is near to one that does, mostly by a mark of another thing."""
        assert like.colour or like.shape, "both sizes may be here, so a size alone has no such name"
        marks = [mark for mark in Name._fields if getattr(like, mark)]
        if len(marks) > 1 and like.colour and like.shape and self.split == "test" and self.random.random() < 0.5:
            pool = [like._replace(colour=c, shape=s) for c, s in sorted(KEPT) if c == like.colour or s == like.shape]
            pool = [name for name in pool if not self.counts[name]]
            if pool:
                return self.random.choice(pool)
        while True:
            mark = self.random.choice(marks)
            present = self.random.random() < 0.7
            value = self.random.choice(self.things)[mark] if present else self.random.choice(VALUES[mark])
            name = like._replace(**{mark: value})
            if not self.counts[name] and self.speakable(name):
                return name

    # Where things are to each other.

    def before(self, axis: Axis) -> list[tuple[Thing, Thing]]:
        """The pairs of which the first is clearly left of (or above) the second."""
        return [(a, b) for a in self.things for b in self.things if is_before(a, b, axis)]

    def only(self, axis: Axis, thing: Thing, sign: int) -> Thing | None:
        """The one thing before (-1) or after (1) another, if there is one and nothing else could be meant."""
        beyond = [t for t in self.things if t is not thing and sign * (t[axis] - thing[axis]) > 0.04]
        if len(beyond) != 1:
            return None
        pair = (thing, beyond[0]) if sign > 0 else (beyond[0], thing)
        return beyond[0] if is_before(*pair, axis) else None

    def nearest(self, thing: Thing) -> Thing | None:
        """The thing that is clearly nearest, also to somebody who knows only the places."""
        if len(self.things) < 3:
            return None
        others = [t for t in self.things if t is not thing]
        real = sorted(
            (((t["x"] - thing["x"]) ** 2 + (t["y"] - thing["y"]) ** 2) ** 0.5, i) for i, t in enumerate(others)
        )
        rough = sorted((_steps(t, thing), i) for i, t in enumerate(others))
        clear = real[1][0] - real[0][0] > 0.1 and rough[1][0] > rough[0][0] and real[0][1] == rough[0][1]
        return others[real[0][1]] if clear else None

    # Asking.

    def ask(
        self,
        skill: str,
        wording: str,
        answer: str,
        *abilities: str,
        accept: tuple[str, ...] = (),
        x: Name | None = None,
        y: Name | None = None,
        **fields: str,
    ) -> Question:
        """A question in words; `x` and `y` are the names in it."""
        phrases = {key: phrase(name, self.tongue) for key, name in (("x", x), ("y", y)) if name is not None}
        text, label = say("shapes", wording, self.random, self.split, self.tongue, **phrases, **fields)
        return Question(skill, text, answer, label, abilities or ("vision",), accept)

    def word(self, value: str) -> str:
        return word(value, self.tongue)

    def yes(self, truth: bool) -> str:
        return self.word("yes" if truth else "no")

    def told(self, thing: Thing) -> tuple[str, tuple[str, ...]]:
        """A thing as an answer: its colour and shape; with its size it is as right."""
        short = phrase(Name(None, thing["colour"], thing["shape"]), self.tongue).one
        return short, (phrase(Name(thing["size"], thing["colour"], thing["shape"]), self.tongue).one,)


def cell(thing: Thing) -> tuple[int, int]:
    """Column and row of the place."""
    row, column = divmod(PLACES.index(thing["place"]), 3)
    return column, row


def is_before(a: Thing, b: Thing, axis: Axis) -> bool:
    """Whether `a` is left of (or above) `b` for the eye, and also by the names of their places."""
    side = "xy".index(axis)
    return bool(b[axis] - a[axis] > APART and cell(a)[side] < cell(b)[side])


def _steps(a: Thing, b: Thing) -> int:
    (column, row), (other_column, other_row) = cell(a), cell(b)
    return (column - other_column) ** 2 + (row - other_row) ** 2
