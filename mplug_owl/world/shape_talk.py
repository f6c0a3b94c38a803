"""Dialogues about shapes: "it", "the other one", "how many of them", corrections, and what was said before.

The last question of each cannot be answered without the turns before it. English only.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.scene import Question, Tongue
from mplug_owl.world.shape_forms import counted, marked
from mplug_owl.world.shape_view import Thing, View, is_before
from mplug_owl.world.shape_words import ALSO, VALUES, Name, phrase

Turns = list[Question]
_MARKS = ("colour", "shape", "size")


def dialogue(graph: dict[str, Any], random: Random, split: Split, tongue: Tongue) -> Turns:
    """One dialogue of two to four questions; none in another tongue than English."""
    if tongue != "en":
        return []
    view = View(graph["things"], random, split, tongue)
    for plot in random.sample(PLOTS, len(PLOTS)):
        turns = plot(view)
        if turns:
            return turns
    return []


def about_it(view: View) -> Turns:
    """There is one: how is it, where is it?"""
    asked = view.random.sample((*_MARKS, "where"), 2)
    for thing, name in view.named(*asked_marks(asked)):
        return [_turn(view, "existence", "yes", x=name), *(_of_it(view, thing, what) for what in asked)]
    return []


def one_or_another(view: View) -> Turns:
    """There is none of these; of those?"""
    what = view.random.choice((*_MARKS, "where"))
    for thing, name in view.named(*asked_marks([what])):
        if name.colour is name.shape is None:
            continue  # there may be no size that is not here
        turns = [_turn(view, "existence", "no", x=view.absent(name))]
        if view.random.random() < 0.3:
            other = view.absent(name)
            return [*turns, _turn(view, "and_a", "no", x=other)] if phrase(other, "en").a not in turns[0].text else []
        return [*turns, _turn(view, "and_a", "yes", x=name), _of_it(view, thing, what)]
    return []


def two_alike(view: View) -> Turns:
    """Two fit the name: first the one, then the other, or the one that was meant."""
    for name in view.random.sample(list(view.counts), len(view.counts)):
        pair = sorted(view.fitting(name), key=lambda thing: thing["x"])
        if name.colour or len(pair) != 2 or not is_before(pair[0], pair[1], "x"):
            continue
        if pair[0]["colour"] == pair[1]["colour"] and view.random.random() < 0.7:
            continue  # or most answers would only repeat the one before
        index = view.random.randrange(2)
        this, that = ("left", "right")[index], ("right", "left")[index]
        turns = [_turn(view, "count", "2", x=name), _turn(view, "the_one", pair[index]["colour"], side=this)]
        if view.random.random() < 0.5:
            return [*turns, _turn(view, "the_other", pair[1 - index]["colour"])]
        return [*turns, _turn(view, "no_the_one", pair[1 - index]["colour"], side=that)]
    return []


def of_them(view: View) -> Turns:
    """How many are there, and how many of them are like this?"""
    names = [name for name, count in view.counts.items() if count > 1 and not (name.size and name.colour)]
    if not names:
        return []
    name = view.random.choice(names)
    group = view.fitting(name)
    turns = [_turn(view, "count", str(len(group)), x=name)]
    for mark in view.random.sample(("size", "colour"), 2):
        if getattr(name, mark) is None:
            allowed = [v for v in VALUES[mark] if view.speakable(name._replace(**{mark: v}))]
            near = view.random.choice([thing[mark] for thing in view.things])
            value = near if near in allowed and view.random.random() < 0.75 else view.random.choice(allowed)
            turns.append(_turn(view, "of_them", str(sum(thing[mark] == value for thing in group)), word=value))
    return turns


def meant_another(view: View) -> Turns:
    """The question was about the wrong thing."""
    mark = view.random.choice(_MARKS)
    named = list(view.named(mark))
    for second, y in named[1:]:
        first, x = named[0]
        if first[mark] != second[mark]:
            return [_turn(view, mark, first[mark], x=x), _turn(view, "no_the", second[mark], x=y)]
    return []


def of_both(view: View) -> Turns:
    """The same of two things, and then how they compare."""
    mark = view.random.choice(("colour", "size"))
    named = list(view.named(mark))
    pairs = [(a, b) for a in named for b in named if a[0] is not b[0]]
    if not pairs:
        return []
    same = view.random.random() < 0.5
    pairs = [p for p in pairs if (p[0][0][mark] == p[1][0][mark]) == same] or pairs
    (first, x), (second, y) = view.random.choice(pairs)
    turns = [_turn(view, mark, first[mark], x=x), _turn(view, "and_the", second[mark], x=y)]
    for axis, wording in (("x", "they_left"), ("y", "they_top")):
        for a, b, name in ((first, second, x), (second, first, y)):
            if view.random.random() < 0.4 and is_before(a, b, "x" if axis == "x" else "y"):
                told = phrase(name, "en").one
                return [*turns, _turn(view, wording, told, accept=(f"the {told}",))]
    return [*turns, _turn(view, f"they_{mark}", view.yes(first[mark] == second[mark]))]


def found_beside(view: View) -> Turns:
    """What is beside this, and how is that?"""
    for thing, name in view.named():
        sign = view.random.choice((-1, 1))
        other = view.only("x", thing, sign)
        if other is not None:
            answer, accept = view.told(other)
            relation = "left of" if sign < 0 else "right of"
            what = view.random.choice(("size", "where"))
            turns = [_turn(view, "beside", answer, accept=accept, y=name, relation=relation)]
            return [*turns, _of_it(view, other, what)]
    return []


def in_another_form(view: View) -> Turns:
    """The same answer once more, as it should look."""
    if view.random.random() < 0.3:
        name = view.sought()
        count = view.counts[name]
        again = _turn(view, "please_word", counted(count, name, "number_word"))
        return [_turn(view, "count", str(count), x=name), again]
    mark = view.random.choice(_MARKS)
    wording = view.random.choice(("upper_case", "sentence"))
    for thing, name in view.named(mark):
        again = _turn(view, f"please_{wording.split('_')[0]}", marked(thing[mark], name, mark, wording))
        return [_turn(view, mark, thing[mark], x=name), again]
    return []


def said_before(view: View) -> Turns:
    """What the first answer was, or the first question about."""
    mark = view.random.choice(_MARKS)
    named = list(view.named(mark))
    if len(named) < 2:
        return []
    (first, x), (second, y) = named[:2]
    turns = [_turn(view, mark, first[mark], x=x), _turn(view, "and_the", second[mark], x=y)]
    if view.random.random() < 0.5:
        return [*turns, _turn(view, "your_first", first[mark])]
    told = phrase(x, "en").one
    return [*turns, _turn(view, "about_first", told, accept=(f"the {told}",))]


PLOTS: tuple[Callable[[View], Turns], ...] = (
    *(about_it, one_or_another, two_alike, of_them, meant_another, of_both, found_beside, in_another_form, said_before),
)


def asked_marks(asked: list[str]) -> list[str]:
    """The marks among what is asked: a name may not give them away."""
    return [what for what in asked if what in _MARKS]


def _of_it(view: View, thing: Thing, what: str) -> Question:
    if what == "where":
        return _turn(view, "it_where", thing["place"], accept=ALSO.get(thing["place"], ()))
    return _turn(view, f"it_{what}", thing[what])


def _turn(
    view: View,
    wording: str,
    answer: str,
    accept: tuple[str, ...] = (),
    x: Name | None = None,
    y: Name | None = None,
    **fields: str,
) -> Question:
    return view.ask("turns", wording, answer, "multi-turn", "vision", accept=accept, x=x, y=y, **fields)
