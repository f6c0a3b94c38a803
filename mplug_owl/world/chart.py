"""Charts: three to six named values from 0 to 9 as upright bars, rows of bars or a line.

It knows what a chart says and what can be asked; how it looks on the page is in `chart_art`.
"""

from functools import cache
from itertools import pairwise, permutations, product
from random import Random
from typing import Any

from mplug_owl.world import canvas
from mplug_owl.world.canvas import FONTS, Colour
from mplug_owl.world.chance import Split, reserved
from mplug_owl.world.chart_art import draw
from mplug_owl.world.inquiry import Inquiry, article
from mplug_owl.world.scene import Level, Question
from mplug_owl.world.shape_art import COLOURS
from mplug_owl.world.wording import say, wordings

__all__ = ["describe", "draw", "key", "make", "questions"]

FORMS = ("bars", "rows", "line")
COUNTS = (3, 4, 5, 6)
MOST = 9  # the largest value
NAMES = {
    "letters": tuple("ABCDEFGHIJKLMNOP"),
    "days": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "months": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "animals": ("cat", "dog", "cow", "pig", "hen", "bee", "fox", "owl", "bat", "rat"),
    "colours": tuple(COLOURS),
}
IN_ORDER = ("letters", "days", "months")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
Entry = tuple[str, int]
Layout = tuple[str, int, str]


@cache
def layouts(kept: bool) -> tuple[Layout, ...]:
    """Form, count and family of names that go together; a tenth of them is kept for testing."""
    found = []
    for form, count, family in product(FORMS, COUNTS, NAMES):
        # Words under more than four bars are wider than the bars; a line has one colour and needs an order.
        wide = form != "rows" and family not in ("letters", "colours") and count > 4
        loose = form == "line" and family not in IN_ORDER
        if not (wide or loose) and reserved("chart", form, count, family) == kept:
            found.append((form, count, family))
    return tuple(found)


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    simple = level == "easy" or (split == "train" and random.random() < 0.4)
    style = canvas.look(random)
    strong = _strong(tuple(style["background"]))
    form, count, family = ("bars", 3, "letters") if level == "easy" else _layout(random, split, simple)
    names = strong if family == "colours" else NAMES[family]
    start = random.choice((0, random.randint(0, len(names) - count)))
    labels = list(names[start : start + count]) if family in IN_ORDER else random.sample(names, count)
    entries: list[Any] = [[label, _value(random, family, label, level, False)] for label in labels]
    if split == "test" and random.random() < 0.5:
        entry = random.choice(entries)
        entry[1] = _value(random, family, entry[0], level, True)
    most = max(value for _, value in entries)
    printed = level == "easy" or random.random() < (0.6 if simple else 0.35)
    if family == "colours":
        paints = labels
    elif random.random() < 0.4:
        paints = random.sample(strong, count)
    else:
        paints = [random.choice(strong)] * count
    style |= {
        "paints": paints,
        "font": random.choice(FONTS),
        "printed": printed,
        "numbers": not printed or random.random() < 0.6,
        "grid": random.choice(["none", "labelled", "all", "all"]),
        "top": max(4, most, random.choice([most, most + 1, 10, 10])),
        "fill": round(random.uniform(0.5, 0.85), 3),
        "line": round(random.uniform(0.015, 0.035), 4),
        "edge": [round(random.uniform(0.015, 0.05), 4) for _ in range(4)],
        "frame": not printed and random.random() < 0.4,
        "outline": random.random() < 0.4,
        "square": random.random() < 0.4,
    }
    return {"form": form, "family": family, "entries": entries, "look": style}


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((label, value) for label, value in graph["entries"])


def _layout(random: Random, split: Split, simple: bool) -> Layout:
    kept = split == "test" and random.random() < 0.25
    while True:
        form, count = random.choice(FORMS), random.choice(COUNTS[:2] if simple else COUNTS)
        fitting = [layout for layout in layouts(kept) if layout[0] == form and layout[1] == count]
        if fitting:
            return random.choice(fitting)


def _value(random: Random, family: str, label: str, level: Level, unseen: bool) -> int:
    return random.choice(_values(family, label, level, unseen) or _values(family, label, level, False))


@cache
def _values(family: str, label: str, level: Level, unseen: bool) -> tuple[int, ...]:
    """The values a name may have: a tenth of the pairs is kept for testing; a bar named by colour is never 0."""
    values = range(1, 6) if level == "easy" else range(family == "colours", MOST + 1)
    return tuple(value for value in values if reserved("chart", label, value) == unseen)


@cache
def _strong(background: Colour) -> tuple[str, ...]:
    """The seven colours that are farthest from the background."""

    def distance(name: str) -> int:
        return sum((a - b) ** 2 for a, b in zip(COLOURS[name], background, strict=True))

    return tuple(sorted(COLOURS, key=distance)[-7:])


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    style = random.choice(wordings("chart")[tongue]["entry"])
    entries = ", ".join(style.format(label=label, value=value) for label, value in graph["entries"])
    fields = {"kind": _kind(graph), "count": len(graph["entries"]), "things": _thing(graph) + "s"}
    return say("chart", "caption", random, "train", tongue, entries=entries, **fields)[0]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    inquiry = Inquiry("chart", "charts", random, split, tongue)
    entries = [(label, value) for label, value in graph["entries"]]
    _ask_one(inquiry, graph, entries)
    _ask_two(inquiry, graph, entries)
    _ask_all(inquiry, graph, entries)
    return inquiry.shuffled()


def _ask_one(inquiry: Inquiry, graph: dict[str, Any], entries: list[Entry]) -> None:
    """What one of the values is, and whose it is."""
    random, thing = inquiry.random, _thing(graph)
    for label, value in random.sample(entries, 2):
        inquiry.ask("value", value, "vision", "ocr", what=_called(graph, label))
    values = [value for _, value in entries]
    single = [entry for entry in entries if values.count(entry[1]) == 1]
    if single:
        label, value = random.choice(single)
        inquiry.ask("owner", label, "vision", "ocr", thing=thing, value=value)
    number = random.randrange(len(entries))
    side, ordinal = ("top" if graph["form"] == "rows" else "left"), ORDINALS[number]
    inquiry.ask("place", entries[number][0], "vision", "ocr", thing=thing, ordinal=ordinal, side=side)
    labels = [label for label, _ in entries]
    there = random.random() < 0.5
    label = random.choice(labels if there else [name for name in NAMES[graph["family"]] if name not in labels])
    which = article(f"{label} {thing}") if graph["family"] == "colours" else f"a {thing} for {label}"
    inquiry.ask("present", there, "vision", "ocr", which=which)


def _ask_two(inquiry: Inquiry, graph: dict[str, Any], entries: list[Entry]) -> None:
    """How two of the values stand to each other."""
    random = inquiry.random
    pairs = list(permutations([(_called(graph, label), value) for label, value in entries], 2))
    unlike = [pair for pair in pairs if pair[0][1] != pair[1][1]]
    for name in ("above", "below") if unlike else ():
        one, other = random.choice(unlike)
        truth = one[1] > other[1] if name == "above" else one[1] < other[1]
        inquiry.ask(name, truth, "vision", "reasoning", one=one[0], other=other[0])
    like = [pair for pair in pairs if pair[0][1] == pair[1][1]]
    if like and unlike:
        truth = random.random() < 0.5
        one, other = random.choice(like if truth else unlike)
        inquiry.ask("equal", truth, "vision", "reasoning", one=one[0], other=other[0])
    one, other = random.choice(pairs)
    inquiry.ask("sum", one[1] + other[1], "vision", "ocr", "reasoning", one=one[0], other=other[0])
    falling = [pair for pair in unlike if pair[0][1] > pair[1][1]]
    if falling:
        one, other = random.choice(falling)
        inquiry.ask("difference", one[1] - other[1], "vision", "ocr", "reasoning", one=one[0], other=other[0])
    steps = [pair for pair in pairwise(entries) if pair[0][1] != pair[1][1]]
    if graph["form"] == "line" and steps:
        one, other = random.choice(steps)
        answer, accept = ("rises", ("rise", "up")) if one[1] < other[1] else ("falls", ("fall", "down"))
        inquiry.ask("trend", answer, "vision", "reasoning", accept=accept, one=one[0], other=other[0])


def _ask_all(inquiry: Inquiry, graph: dict[str, Any], entries: list[Entry]) -> None:
    """What only all of the values together tell."""
    random, thing = inquiry.random, _thing(graph)
    values = [value for _, value in entries]
    most, least = ("longest", "shortest") if graph["form"] == "rows" else ("highest", "lowest")
    for name, extreme in (("highest", max(values)), ("lowest", min(values))):
        if values.count(extreme) == 1:
            label = entries[values.index(extreme)][0]
            inquiry.ask(name, label, "vision", "ocr", "reasoning", thing=thing, most=most, least=least)
    inquiry.ask("count", len(entries), "vision", things=thing + "s")
    bound = random.randint(1, MOST - 1)
    inquiry.ask("over", sum(value > bound for value in values), "vision", "reasoning", things=thing + "s", value=bound)
    if random.random() < (0.4 if graph["form"] == "line" else 0.2):  # there are two kinds of bars
        inquiry.ask("kind", _kind(graph), "vision", "knowledge", accept=(_kind(graph).split()[0],))


def _kind(graph: dict[str, Any]) -> str:
    return "line chart" if graph["form"] == "line" else "bar chart"


def _thing(graph: dict[str, Any]) -> str:
    return "point" if graph["form"] == "line" else "bar"


def _called(graph: dict[str, Any], label: str) -> str:
    return f"the {label} {_thing(graph)}" if graph["family"] == "colours" else label
