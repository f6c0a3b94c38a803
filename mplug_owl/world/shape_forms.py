"""Questions about shapes that say how the answer must look: one word, a sentence, capitals, a number in words, a list.

The question inside has a wording that training knows, so only the demand may be new in a test. English only.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from operator import itemgetter

from mplug_owl.world.scene import Question
from mplug_owl.world.shape_view import Axis, View, is_before
from mplug_owl.world.shape_words import Name, at, phrase
from mplug_owl.world.wording import say

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_ORDERS: tuple[tuple[Axis, str], ...] = (("x", "from left to right"), ("y", "from top to bottom"))
_ABILITIES = ("instruction", "vision")


def forms(view: View) -> Iterator[Question]:
    """Each kind that fits the scene."""
    yield from (*marks_in_form(view), *counts_in_form(view), *lists(view), *as_json(view))


def marks_in_form(view: View) -> Iterator[Question]:
    """A colour, a shape or a size, in one word, in capitals and as a sentence."""
    for wording in view.random.sample(("one_word", "upper_case", "sentence"), 2):
        mark = view.random.choice(("colour", "shape", "size"))
        for thing, name in view.named(mark):
            question = plain(view, mark, name)
            yield view.ask("form", wording, marked(thing[mark], name, mark, wording), *_ABILITIES, question=question)
            break


def counts_in_form(view: View) -> Iterator[Question]:
    wording = view.random.choice(("number_only", "number_word", "sentence"))
    name = view.sought()
    answer = counted(view.counts[name], name, wording)
    yield view.ask("form", wording, answer, *_ABILITIES, question=plain(view, "count", name))


def lists(view: View) -> Iterator[Question]:
    """In their order in the picture, where that is clear, and by the alphabet."""
    for axis, order in _ORDERS:
        things = sorted(view.things, key=itemgetter(axis))
        mark = view.random.choice(("colour", "shape"))
        kinds = {thing[mark] for thing in things}
        if len(kinds) > 1 and all(is_before(a, b, axis) for a, b in pairwise(things)):
            listed = ", ".join(thing[mark] for thing in things)
            yield view.ask("form", f"{mark}s_in_order", listed, *_ABILITIES, order=order)
    colours = sorted({thing["colour"] for thing in view.things})
    if len(colours) > 1 and view.random.random() < 0.6:
        yield view.ask("form", "colours_by_letter", ", ".join(colours), *_ABILITIES)


def as_json(view: View) -> Iterator[Question]:
    if view.random.random() < 0.6:
        return
    thing = view.subjects()[0]
    answer = json.dumps({"colour": thing["colour"], "shape": thing["shape"]})
    yield view.ask("form", "json", answer, *_ABILITIES, at=at(thing["place"], "en"))


def plain(view: View, wording: str, name: Name) -> str:
    """A question in a wording that training knows, whatever the split."""
    return say("shapes", wording, view.random, "train", x=phrase(name, "en"))[0]


def marked(value: str, name: Name, mark: str, wording: str) -> str:
    """A mark in its form."""
    if wording == "sentence":
        article = "a " if mark == "shape" else ""
        return f"The {phrase(name, 'en').one} is {article}{value}."
    return value.upper() if wording == "upper_case" else value


def counted(count: int, name: Name, wording: str) -> str:
    """A count in its form."""
    if wording == "sentence":
        things = phrase(name, "en")
        return f"There is 1 {things.one}." if count == 1 else f"There are {count} {things.many}."
    return NUMBERS[count] if wording == "number_word" else str(count)
