"""Real flags: one, large, or two side by side; flat, edged, waving or on a pole.

It asks whose they are, what is on them, and what is known of their countries. Half of what is known is never asked
beside a picture in training: it can only be learnt from text, and the test asks for that half alone. Each country has
one style that its flag has in the test alone. How a flag is painted is not known here.
"""

from functools import cache
from math import cos, radians, sin
from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world.canvas import Canvas, look
from mplug_owl.world.chance import Split, reserved, stream
from mplug_owl.world.countries import BY_NAME, COUNTRIES, FACTS, Country, Flag
from mplug_owl.world.flag_art import hang
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Level, Place, Question, around
from mplug_owl.world.wording import say

STYLES = ("flat", "edged", "waving", "pole")
TILTS = {"far left": (-10, -6), "left": (-6, -2), "level": (-1, 1), "right": (2, 6), "far right": (6, 10)}  # degrees
BACKDROPS = {
    "pale": (225, 225, 225),
    "grey": (125, 125, 125),
    "dark": (30, 30, 30),
    "sky": (140, 190, 235),
    "grass": (90, 140, 70),
    "wood": (150, 110, 75),
}
SIDES = ("left", "right")
MARKS = {  # what a layer on the stripes is called
    "disc": "disc",
    "star": "star",
    "pentagram": "star",
    "cross": "cross",
    "plus": "cross",
    "saltire": "cross",
    "triangle": "triangle",
    "crescent": "crescent",
    "canton": "corner box",
    "bar": "bar",
    "teeth": "zigzag",
}
ASKED_MARKS = ("star", "cross", "triangle", "disc")
ASKED_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
ACCEPT = {"maroon": ("red", "dark red"), "yellow": ("gold",), "dutch": ("dutch and french",), "chinese": ("mandarin",)}


def fact_reserved(country: str, fact: str) -> bool:
    """Whether training never asks for this fact beside the flag."""
    return reserved("fact", country, fact, percent=50)


@cache
def kept_style(country: str) -> str:
    """The one style that training never shows this country's flag in."""
    return stream("flag style", country).choice(STYLES)


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    plain = level == "easy"
    two = not plain and random.random() < (0.25 if split == "train" else 0.35)
    names = random.sample([country.name for country in COUNTRIES], 2 if two else 1)
    unseen = {kept_style(name) for name in names}
    options = [style for style in STYLES[: 2 if plain else 4] if style not in unseen]
    if split == "test" and not plain and random.random() < 0.5:
        options = sorted(unseen)
    graph: dict[str, Any] = {"flags": names, "style": random.choice(options)}
    graph["tilt"] = "level" if plain else random.choice(list(TILTS))
    graph["backdrop"] = random.choice(list(BACKDROPS))
    graph["look"] = _look(random, graph)
    return graph


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    """A country alone would be in one split only: the key of one flag has the manner in which it is shown."""
    names = tuple(graph["flags"])
    return names if len(names) == 2 else (*names, graph["style"], graph["tilt"], graph["backdrop"])


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    canvas = Canvas(side, graph["look"])
    for name, hung in zip(graph["flags"], graph["look"]["hung"], strict=True):
        hang(canvas, name, hung)
    return [canvas.done()]


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    countries = [BY_NAME[name] for name in graph["flags"]]
    titles, looks = [country.title for country in countries], [in_words(country.flag) for country in countries]
    if len(countries) == 1:
        return say("flag", "told_one", random, "train", tongue, country=titles[0], looks=looks[0])[0]
    both = {"left": titles[0], "right": titles[1], "left_looks": looks[0], "right_looks": looks[1]}
    return say("flag", "told_two", random, "train", tongue, **both)[0]


def places(graph: dict[str, Any]) -> list[Place]:
    found = []
    for name, hung in zip(graph["flags"], graph["look"]["hung"], strict=True):
        width, height = 0.9 * hung["width"], 0.9 * hung["width"] / BY_NAME[name].flag.ratio
        found.append(Place(around(hung["x"], hung["y"], width, height), (name,)))
    return found


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked = Inquiry("flag", "flags", random, split, tongue)
    facts = Inquiry("flag", "knowledge", random, split, tongue)
    countries = [BY_NAME[name] for name in graph["flags"]]
    asked.ask("how_many_flags", len(countries), "vision")
    if len(countries) == 1:
        _ask_one(asked, random, countries[0])
        _ask_facts(facts, split, countries[0])
    else:
        _ask_two(asked, random, countries)
        for side, country in zip(SIDES, countries, strict=True):
            _ask_facts(facts, split, country, side)
    asked.questions += facts.questions
    return asked.shuffled()


def in_words(flag: Flag) -> str:
    """All that can be seen on a flag: "vertical stripes green, yellow, red with a green star"."""
    names = {"columns": "vertical stripes ", "rows": "horizontal stripes ", "quarters": "quarters ", "sides": "sides "}
    ground = names.get(flag.base.kind, "") + ", ".join(flag.base.words)
    told = []
    for mark, words in marks_of(flag).items():
        colours = " and ".join(dict.fromkeys(words))
        told.append(f"a {colours} {mark}" if len(words) == 1 or mark == "cross" else f"{len(words)} {colours} {mark}s")
    return f"{ground} with {' and '.join(told)}" if told else ground


def marks_of(flag: Flag) -> dict[str, list[str]]:
    """The colours of each kind of thing on the stripes; a cross upon a cross is one that has an edge."""
    found: dict[str, list[str]] = {}
    for layer in flag.marks:
        found.setdefault(MARKS[layer.kind], []).append(layer.words[0])
    return found


@cache
def alikes(name: str) -> list[str]:
    """The other countries, those with the most similar flags first."""
    flag = BY_NAME[name].flag

    def likeness(other: Country) -> float:
        mine, its = set(flag.colours), set(other.flag.colours)
        same_base = flag.base.kind == other.flag.base.kind and len(flag.base.words) == len(other.flag.base.words)
        same_marks = marks_of(flag).keys() == marks_of(other.flag).keys()
        return 2 * len(mine & its) / len(mine | its) + same_base + same_marks

    others = [country for country in COUNTRIES if country.name != name]
    return [country.name for country in sorted(others, key=likeness, reverse=True)]


def _ask_one(asked: Inquiry, random: Random, country: Country) -> None:
    flag = country.flag
    asked.ask("name", country.name, "vision", "knowledge")
    _ask_whether(asked, random, "is_it", [country])
    if flag.base.kind in ("columns", "rows"):
        words = flag.base.words
        if len(words) <= 5:
            said, most = ", ".join(words), ", ".join(words[:-1])
            asked.ask(flag.base.kind, said, "vision", accept=(said.replace(",", ""), f"{most} and {words[-1]}"))
        if not any(layer.kind == "bar" for layer in flag.marks):  # which could be counted too
            asked.ask("stripes", len(words), "vision")
        if flag.base.kind == "columns" or random.random() < _share("columns") / _share("rows"):
            asked.ask("direction", "vertical" if flag.base.kind == "columns" else "horizontal", "vision")
    here = random.random() < 0.5
    either = {"red"} if "maroon" in flag.colours else set()  # some would call it so
    colours = [colour for colour in ASKED_COLOURS if (colour in flag.colours) == here and colour not in either]
    asked.ask("has_colour", here, "vision", colour=random.choice(colours))
    _ask_marks(asked, random, flag)


def _ask_marks(asked: Inquiry, random: Random, flag: Flag) -> None:
    marks = marks_of(flag)
    present = [mark for mark in ASKED_MARKS if mark in marks]
    absent = random.choice([mark for mark in ASKED_MARKS if mark not in marks])
    marked = sum(any(mark in ASKED_MARKS for mark in marks_of(country.flag)) for country in COUNTRIES) / len(COUNTRIES)
    if present:
        asked.ask("has_mark", True, "vision", mark=random.choice(present))
    if random.random() < (0.4 if present else 0.6 * marked / (1 - marked)):  # as many no as yes over all flags
        asked.ask("has_mark", False, "vision", mark=absent)
    for mark, words in marks.items():
        if len(words) == 1:
            asked.ask("mark_colour", words[0], "vision", accept=ACCEPT.get(words[0], ()), mark=mark)


def _ask_two(asked: Inquiry, random: Random, countries: list[Country]) -> None:
    for side, country in zip(SIDES, countries, strict=True):
        asked.ask("name_side", country.name, "vision", "knowledge", side=side)
    spot = random.randrange(2)
    asked.ask("which_side", SIDES[spot], "vision", "knowledge", country=countries[spot].title)
    _ask_whether(asked, random, "is_there", countries)


def _ask_whether(asked: Inquiry, random: Random, name: str, countries: list[Country]) -> None:
    """Is it this country's flag? As often as not it is another's that looks much like it."""
    here, shown = random.random() < 0.5, random.choice(countries)
    others = [other for other in alikes(shown.name) if BY_NAME[other] not in countries]
    meant = shown.name if here else random.choice(others[: 6 if random.random() < 0.75 else None])
    asked.ask(name, here, "vision", "knowledge", country=BY_NAME[meant].title)


def _ask_facts(facts: Inquiry, split: Split, country: Country, side: str | None = None) -> None:
    for fact in FACTS:
        if fact_reserved(country.name, fact) == (split == "test"):
            said = getattr(country, fact)
            name = f"{fact}_side" if side else fact
            facts.ask(name, said, "knowledge", "vision", accept=ACCEPT.get(said, ()), side=side)


@cache
def _share(kind: str) -> float:
    return sum(country.flag.base.kind == kind for country in COUNTRIES) / len(COUNTRIES)


def _look(random: Random, graph: dict[str, Any]) -> dict[str, Any]:
    shown = look(random)
    shown["background"] = [part + random.randint(-25, 25) for part in BACKDROPS[graph["backdrop"]]]
    names, style = graph["flags"], graph["style"]
    cell = 1 / len(names)
    shown["hung"] = [_hung(random, name, style, graph["tilt"], (i + 0.5) * cell, cell) for i, name in enumerate(names)]
    return shown


def _hung(random: Random, name: str, style: str, tilt: str, middle: float, room: float) -> dict[str, Any]:
    """Where and how one flag hangs: as large as its room lets it, and a little less."""
    ratio, angle = BY_NAME[name].flag.ratio, random.uniform(*TILTS[tilt])
    wave = random.uniform(0.03, 0.07) if style == "waving" or (style == "pole" and random.random() < 0.6) else 0.0
    pole = random.choice([(150, 150, 155), (110, 75, 45), (200, 200, 205)]) if style == "pole" else None
    lean = abs(radians(angle))
    wide = cos(lean) + sin(lean) / ratio + (0.1 if pole else 0.0)  # of the turned flag, in its lengths
    high = sin(lean) + (cos(lean) + 2 * wave) / ratio
    width = min(0.94 * room / wide, 0.86 / high) * random.uniform(0.78 if room == 1 else 0.9, 1)
    spare_x, spare_y = (room - width * wide) / 2, (1 - width * high) / 2
    return {
        "x": round(middle + random.uniform(-0.8, 0.8) * spare_x + (0.05 * width if pole else 0), 4),
        "y": round(0.5 + random.uniform(-0.7, 0.5 if pole else 0.7) * spare_y, 4),
        "width": round(width, 4),
        "angle": round(angle, 2),
        "wave": round(wave, 3),
        "phase": round(random.uniform(0, 6.28), 2),
        "light": round(random.uniform(0.82, 0.94), 3),
        "shade": round(random.uniform(0.03, 0.06), 3) if wave else 0.0,
        "edge": style == "edged",
        "pole": list(pole) if pole else None,
    }
