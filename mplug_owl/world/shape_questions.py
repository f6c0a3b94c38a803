"""What is asked of a scene of shapes: is it there, how is it, how many, where, and in which form to answer.

Every question stands alone; talk of several turns is in `shape_talk`. It knows the things, not their pixels.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.scene import Question, Tongue
from mplug_owl.world.shape_forms import forms
from mplug_owl.world.shape_view import Axis, Thing, View, is_before
from mplug_owl.world.shape_words import ALSO, PLACES, VALUES, Name, at

_SIDES: tuple[tuple[Axis, str, str, str], ...] = (
    ("x", "left", "left of", "right of"),
    ("y", "above", "above", "below"),
)
_ENDS: tuple[tuple[Axis, int, str], ...] = (
    *(("x", 1, "leftmost"), ("x", -1, "rightmost"), ("y", 1, "topmost"), ("y", -1, "lowest")),
)


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: Tongue) -> list[Question]:
    """All kinds of questions that fit the scene, by chance and without repeats."""
    view = View(graph["things"], random, split, tongue)
    makers = [existence, attributes, checks, counting, comparisons, relations, order, places]
    if tongue == "en":
        makers.append(forms)
    found = {question.text: question for maker in makers for question in maker(view)}
    return random.sample(list(found.values()), len(found))


def existence(view: View) -> Iterator[Question]:
    """Half of the answers are no, and then mostly about marks that are here, only not together."""
    for _ in range(2):
        index = view.random.choices((0, 1, 2, 3, 4), (3, 5, 2, 2, 2))[0]
        name = view.names[id(view.subjects()[0])][index]
        here = view.random.random() < 0.5
        yield view.ask("existence", "existence", view.yes(here), x=name if here else view.absent(name))


def attributes(view: View) -> Iterator[Question]:
    for mark in ("colour", "shape", "size"):
        for thing, name in view.named(mark):
            yield view.ask("attributes", mark, view.word(thing[mark]), x=name)
            break
    thing = view.subjects()[0]
    mark = view.random.choice(("colour", "shape"))
    yield view.ask("attributes", f"{mark}_at", view.word(thing[mark]), at=at(thing["place"], view.tongue))


def checks(view: View) -> Iterator[Question]:
    """Is it so? A false colour is mostly one that something else has."""
    mark = view.random.choice(("colour", "colour", "size"))
    for thing, name in view.named(mark):
        true = view.random.random() < 0.5
        false = [v for v in VALUES[mark] if v != thing[mark] and view.speakable(name._replace(**{mark: v}))]
        near = [v for v in false if any(t[mark] == v for t in view.things)]
        value = thing[mark] if true else view.random.choice(near or false)
        yield view.ask("attributes", "check", view.yes(true), x=name, word=view.word(value))
        break


def counting(view: View) -> Iterator[Question]:
    for _ in range(2):
        name = view.sought()
        yield view.ask("counting", "count", str(view.counts[name]), x=name)
    mark = view.random.choice(("colour", "shape"))
    yield view.ask("counting", f"count_{mark}s", str(len({t[mark] for t in view.things})))


def comparisons(view: View) -> Iterator[Question]:
    """More of these or of those; the same or not, where the scene has examples of both."""
    mark = view.random.choice(Name._fields)
    counts = {value: view.counts[Name(**{mark: value})] for value in sorted({t[mark] for t in view.things})}
    unequal = [(a, b) for a in counts for b in counts if counts[a] > counts[b]]
    if unequal:
        pair = [Name(**{mark: value}) for value in view.random.choice(unequal)]
        more = view.random.random() < 0.5
        x, y = pair if more else pair[::-1]
        yield view.ask("counting", "more", view.yes(more), "vision", "reasoning", x=x, y=y)
    for mark in ("colour", "size"):
        named = dict((id(thing), name) for thing, name in view.named(mark))
        pairs: dict[bool, list[tuple[Thing, Thing]]] = {True: [], False: []}
        for a, b in ((a, b) for a in view.things for b in view.things if a is not b):
            if id(a) in named and id(b) in named:
                pairs[a[mark] == b[mark]].append((a, b))
        if all(pairs.values()):  # or the question alone would tell its answer
            same = view.random.random() < 0.5
            a, b = view.random.choice(pairs[same])
            yield view.ask("attributes", f"same_{mark}", view.yes(same), x=named[id(a)], y=named[id(b)])


def relations(view: View) -> Iterator[Question]:
    """Where things are to each other; only pairs that are clearly apart are asked about."""
    see = ("vision", "reasoning")
    for axis, before, relation, opposite in _SIDES:
        after = {"left": "right", "above": "below"}[before]
        pairs = [(a, b) for pair in view.before(axis) for a, b in (pair, pair[::-1])]
        for a, b in view.random.sample(pairs, len(pairs)):
            x, y = view.name(a), view.name(b)
            if x is None or y is None:
                continue
            first = is_before(a, b, axis)
            asked = view.random.choice((relation, opposite))
            truth = view.yes(first == (asked == relation))
            yield view.ask("relations", "relation", truth, *see, x=x, y=y, relation=view.word(asked))
            side = view.word(before if first else after)
            yield view.ask("relations", f"{before}_or_{after}", side, *see, x=x, y=y)
            break
        for thing, name in view.named():
            sign = view.random.choice((-1, 1))
            other = view.only(axis, thing, sign)
            if other is not None:
                answer, accept = view.told(other)
                asked = view.word(relation if sign < 0 else opposite)
                yield view.ask("relations", "beside", answer, *see, accept=accept, y=name, relation=asked)
                break
    for thing, name in view.named():
        other = view.nearest(thing)
        if other is not None:
            answer, accept = view.told(other)
            yield view.ask("relations", "nearest", answer, *see, accept=accept, y=name)
            break


def order(view: View) -> Iterator[Question]:
    """Which is the first of all."""
    if len(view.things) < 2:
        return
    for axis, sign, wording in view.random.sample(_ENDS, 2):
        end = min(view.things, key=lambda thing: sign * thing[axis])
        pairs = [(end, other) if sign > 0 else (other, end) for other in view.things if other is not end]
        if all(is_before(*pair, axis) for pair in pairs):
            answer, accept = view.told(end)
            yield view.ask("relations", wording, answer, "vision", "reasoning", accept=accept)
    for size, wording in (("large", "largest"), ("small", "smallest")):
        if view.counts[Name(size)] == 1:
            answer, accept = view.told(next(t for t in view.things if t["size"] == size))
            yield view.ask("relations", wording, answer, "vision", "reasoning", accept=accept)


def places(view: View) -> Iterator[Question]:
    for thing, name in view.named():
        also = ALSO.get(thing["place"], ()) if view.tongue == "en" else ()
        yield view.ask("relations", "where", view.word(thing["place"]), accept=also, x=name)
        break
    taken = {thing["place"]: thing for thing in view.subjects()}
    if view.random.random() < 0.15:
        place = view.random.choice([p for p in PLACES if p not in taken])
        yield view.ask("relations", "at", view.word("nothing"), at=at(place, view.tongue))
    else:
        place = next(iter(taken))
        answer, accept = view.told(taken[place])
        yield view.ask("relations", "at", answer, accept=accept, at=at(place, view.tongue))
