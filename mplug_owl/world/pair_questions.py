"""What can be said and asked about two pictures that are the same or differ in one way.

It knows the things of both and what became of one of them, and nothing of drawing.
"""

from random import Random
from typing import Any

from mplug_owl.world.chance import Split
from mplug_owl.world.inquiry import Inquiry, article
from mplug_owl.world.scene import Question
from mplug_owl.world.shape_words import ALSO, PLACES
from mplug_owl.world.things import Thing, call, name, near, nouns, other_names, sole
from mplug_owl.world.wording import say, wordings

WHICH = ("first", "second")
MARKS = ("colour", "shape", "size", "place")
_LISTED = 3  # more things are not told twice
# How often what is rarely the answer may be, so that each answer is about as frequent: of 100 pairs, 40 are the same.
_TELL, _NOTHING, _NEITHER, _KEPT = 0.667, 0.3, 0.08, 0.11


def mark(thing: Thing, what: str) -> str:
    """A thing's colour, shape, size or place in a word or two."""
    return PLACES[thing["cell"]] if what == "place" else thing[what]


def differing(graph: dict[str, Any]) -> tuple[Thing | None, Thing | None]:
    """The thing that changed as it is in the first picture and in the second; None where it is not."""
    first, second = graph["pictures"]
    before = [thing for thing in first if thing not in second]
    after = [thing for thing in second if thing not in first]
    return (before or [None])[0], (after or [None])[0]


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    first, second = graph["pictures"]
    style = random.choice(wordings("pair")[tongue]["listed"])
    told = _listed(second, style) if len(second) <= _LISTED and random.random() < 0.4 else _told(graph, random, tongue)
    return say("pair", "caption", random, "train", tongue, first=_listed(first, style), second=told)[0]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    inquiry = Inquiry("pair", "pairs", random, split, tongue)
    _ask_whole(inquiry, graph)
    _ask_presence(inquiry, graph)
    for what in ("colour", "place", "size"):
        _ask_mark(inquiry, graph, what)
        _ask_kept(inquiry, graph, what)
    _ask_change(inquiry, graph)
    return inquiry.shuffled()


def dialogue(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    """Questions in an order: those after the first of a thread can only be understood with what went before."""
    inquiry = Inquiry("pair", "turns", random, split, tongue)
    threads = [_talk_of_thing, _talk_of_presence, _talk_of_number]
    if graph["change"] not in ("none", "number"):
        threads.append(_talk_of_change)
    for thread in random.sample(threads, random.randint(1, 2)):
        thread(inquiry, graph)
    return inquiry.questions


def _listed(things: list[Thing], style: str) -> str:
    return ", ".join(style.format(size=t["size"], thing=name(t), place=mark(t, "place")) for t in things)


def _told(graph: dict[str, Any], random: Random, tongue: str) -> str:
    """The second picture by how it differs from the first."""
    before, after = differing(graph)
    told = graph["change"]
    if told == "number":
        told = "more" if after else "fewer"
    fields = {"before": name(before)} if before else {}
    if after:
        fields |= {"after": name(after), **{what: mark(after, what) for what in MARKS}}
    return say("pair", f"told_{told}", random, "train", tongue, **fields)[0]


def _ask_whole(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    random, (first, second) = inquiry.random, graph["pictures"]
    same = graph["change"] == "none"
    if same or random.random() < _TELL:
        inquiry.ask("same", same, "vision", "reasoning")
    if not same or random.random() < _NOTHING:
        accept = {"none": ("none", "no change"), "colour": ("color",), "place": ("position",)}.get(graph["change"], ())
        answer = "nothing" if same else graph["change"]
        inquiry.ask("change", answer, "vision", "reasoning", accept=accept)
    number = random.randrange(2)
    inquiry.ask("count", len(graph["pictures"][number]), "vision", which=WHICH[number])
    inquiry.ask("total", len(first) + len(second), "vision", "reasoning")
    if len(first) != len(second):
        asked = random.choice(("more", "fewer"))
        answer = WHICH[(len(first) < len(second)) == (asked == "more")]
        inquiry.ask(asked, answer, "vision", "reasoning", accept=(f"the {answer}", f"the {answer} picture"))
    elif random.random() < _NEITHER:
        accept = ("both", "the same", "none", "equal")
        inquiry.ask(random.choice(("more", "fewer")), "neither", "vision", "reasoning", accept=accept)


def _ask_presence(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """What is in both pictures, and in one of them; who is asked about for a no is in the other, or nearly there."""
    random = inquiry.random
    first, second = (nouns(picture) for picture in graph["pictures"])
    missing = near(inquiry.split, first | second)
    truth = random.random() < 0.5 and bool(first & second)
    found = (first & second) if truth else (first ^ second) or missing
    inquiry.ask("both", truth, "vision", "reasoning", what=article(random.choice(sorted(found))))
    for which, here, there in (("first", first, second), ("second", second, first)):
        truth = random.random() < 0.5
        found = here if truth else (there - here) or missing
        inquiry.ask("there", truth, "vision", which=which, what=article(random.choice(sorted(found))))


def _ask_mark(inquiry: Inquiry, graph: dict[str, Any], what: str) -> None:
    """A thing's colour, place or size in one of the pictures: often that of the one which changed."""
    random = inquiry.random
    number = random.randrange(2)
    picture, changed = graph["pictures"][number], differing(graph)[number]
    fitting = [thing for thing in picture if what != "colour" or sole(thing, picture)]
    if not fitting:
        return
    thing = changed if changed in fitting and changed and random.random() < 0.4 else random.choice(fitting)
    answer = mark(thing, what)
    inquiry.ask(what, answer, "vision", accept=ALSO.get(answer, ()), which=WHICH[number], what=call(thing, picture))


def _ask_kept(inquiry: Inquiry, graph: dict[str, Any], what: str) -> None:
    """Whether a thing has the same colour, place or size in both pictures."""
    first, second = graph["pictures"]
    changed = differing(graph)[0]
    kept = graph["change"] != what
    if kept and inquiry.random.random() > _KEPT:
        return
    things = [thing for thing in first if thing in second] if kept else [changed]
    named = [
        thing["shape"] if what == "colour" else call(thing, first)
        for thing in things
        if thing and (what != "colour" or (sole(thing, first) and sole(thing, second)))
        if call(thing, first) == call(thing, second)
    ]
    if named:
        inquiry.ask(f"same_{what}", kept, "vision", "reasoning", what=inquiry.random.choice(named))


def _ask_change(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """Which thing changed, and how."""
    before, after = differing(graph)
    first, second = graph["pictures"]
    if before and after:
        accept = (*other_names(before, first), name(after), *other_names(after, second))
        inquiry.ask("changed", name(before), "vision", "reasoning", accept=accept)
        if graph["change"] == "place" and (way := _way(before["cell"], after["cell"])):
            inquiry.ask("moved", way, "vision", "reasoning", accept=(f"to the {way}",), what=call(before, first))
        if graph["change"] == "size":
            grown = after["size"] == "large"
            answer, accept = ("larger", ("grow", "large")) if grown else ("smaller", ("shrink", "small"))
            inquiry.ask("grown", answer, "vision", "reasoning", accept=accept, what=call(before, first))
    elif thing := before or after:
        accept = other_names(thing, first if before else second)
        inquiry.ask("extra", name(thing), "vision", "reasoning", accept=accept)


def _way(start: int, end: int) -> str:
    """The direction from one cell to another of its row or column."""
    if start // 3 == end // 3:
        return "left" if end < start else "right"
    if start % 3 == end % 3:
        return "up" if end < start else "down"
    return ""


def _talk_of_thing(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """Is there a star? What colour is it? And in the second picture?"""
    random, (first, second) = inquiry.random, graph["pictures"]
    changed = differing(graph)[0]
    thing = changed if changed and random.random() < 0.5 else random.choice(first)
    inquiry.ask("there", True, "vision", "multi-turn", which="first", what=article(call(thing, first)))
    again = [other for other in second if call(other, second) == call(thing, first)]
    asked = random.sample(("colour", "size", "place") if sole(thing, first) else ("size", "place"), 2)
    for what in asked:
        answer = mark(thing, what)
        inquiry.ask(f"it_{what}", answer, "vision", "multi-turn", accept=ALSO.get(answer, ()))
    if again:
        answer = mark(again[0], asked[-1])
        inquiry.ask("and_second", answer, "vision", "reasoning", "multi-turn", accept=ALSO.get(answer, ()))


def _talk_of_presence(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """Is there a star in the first picture, which more often there is not? And in the second?"""
    random = inquiry.random
    first, second = (nouns(picture) for picture in graph["pictures"])
    here = random.random() < 0.2
    found = first if here else (second - first) or near(inquiry.split, first | second)
    noun = random.choice(sorted(found))
    inquiry.ask("there", here, "vision", "multi-turn", which="first", what=article(noun))
    inquiry.ask("and_second", noun in second, "vision", "multi-turn")


def _talk_of_number(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """How many are there? And in the second picture? How many is that together?"""
    first, second = (len(picture) for picture in graph["pictures"])
    inquiry.ask("count", first, "vision", "multi-turn", which="first")
    inquiry.ask("and_second", second, "vision", "multi-turn")
    if first != second and inquiry.random.random() < 0.7:
        answer = WHICH[first < second]
        accept = (f"the {answer}", f"the {answer} picture")
        inquiry.ask("so_more", answer, "vision", "reasoning", "multi-turn", accept=accept)
    else:
        inquiry.ask("together", first + second, "vision", "reasoning", "multi-turn")


def _talk_of_change(inquiry: Inquiry, graph: dict[str, Any]) -> None:
    """Are they the same? What changed? Which thing is it? What is it now?"""
    before, after = differing(graph)
    assert before and after, graph
    inquiry.ask("same", False, "vision", "reasoning", "multi-turn")
    inquiry.ask("change", graph["change"], "vision", "reasoning", "multi-turn")
    accept = (*other_names(before, graph["pictures"][0]), name(after), *other_names(after, graph["pictures"][1]))
    inquiry.ask("thing_of_it", name(before), "vision", "reasoning", "multi-turn", accept=accept)
    for step, thing in (("was_first", before), ("is_second", after)):
        answer = mark(thing, graph["change"])
        inquiry.ask(step, answer, "vision", "reasoning", "multi-turn", accept=ALSO.get(answer, ()))
