"""A clock with two hands, read to five minutes: dials of two shapes, with numbers, strokes or nothing.

The truth is the time and the kind of dial. On each dial some hours are shown in the test alone. Noon and midnight are
12:00, and no question depends on which of them it is.
"""

from functools import cache
from math import cos, pi, sin
from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world.canvas import Canvas, Colour, Point, look
from mplug_owl.world.chance import Split, stream
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import Level, Place, Question, around
from mplug_owl.world.sums import NUMERALS
from mplug_owl.world.wording import say

SHAPES = ("round", "square")
MARKS = {  # what is on the dial, and how it is told
    "numbers": "with numbers",
    "quarters": "with numbers at 12, 3, 6 and 9",
    "strokes": "with strokes",
    "plain": "without numbers",
}
TONES = ("light", "light", "dark")
NUMBERED = ("numbers", "quarters")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneralBol")
HANDS = {  # one edge of each form, as shares of its length and half width
    "straight": ((1.0, 1.0),),
    "tapered": ((0.3, 1.3), (1.0, 0.35)),
    "arrow": ((0.78, 1.0), (0.78, 2.0), (1.0, 0.0)),
}
THIN = {"short": 1.0, "long": 0.55}  # the width of a hand
DARK_INKS: tuple[Colour, ...] = ((15, 15, 15), (15, 15, 15), (140, 20, 20), (20, 40, 130), (20, 80, 40))
LIGHT_INKS: tuple[Colour, ...] = ((245, 245, 245), (245, 245, 245), (255, 215, 120), (170, 215, 255), (255, 150, 150))
SPANS = {"one hour": 60, "two hours": 120, "half an hour": 30, "ten minutes": 10}
WORDED = {0: ("{hour} o'clock", "{hour}"), 15: ("quarter past {hour}",), 30: ("half past {hour}",)}
DAY = 12 * 60


@cache
def kept_face(hour: int) -> tuple[str, str]:
    """The one shape and marks that training never shows this hour on."""
    random = stream("clock face", hour)
    return random.choice(SHAPES), random.choice(list(MARKS))


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    unseen = split == "test" and random.random() < 0.5
    few = level == "easy" or (split == "train" and random.random() < 0.2)
    hour, minute = random.randint(1, 12), random.choice(range(0, 60, 30 if level == "easy" else 15 if few else 5))
    face = kept_face(hour)
    while not unseen and face == kept_face(hour):
        face = random.choice(SHAPES), random.choice(list(MARKS))
    tone = random.choice(TONES)
    return {
        "hour": hour,
        "minute": minute,
        "shape": face[0],
        "marks": face[1],
        "hands": random.choice(list(HANDS)),
        "tone": tone,
        "look": _look(random, tone),
    }


def key(graph: dict[str, Any]) -> tuple[Any, ...]:
    """The face belongs to it, so that every time is seen in training, though not on every face."""
    return tuple(graph[part] for part in ("hour", "minute", "shape", "marks", "hands", "tone"))


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    canvas, shown = Canvas(side, graph["look"]), graph["look"]
    _draw_dial(canvas, graph)
    minute = 2 * pi * graph["minute"] / 60
    hour = 2 * pi * (graph["hour"] + graph["minute"] / 60) / 12
    _draw_hand(canvas, graph, hour, "short")
    _draw_hand(canvas, graph, minute, "long")
    x, y, r = shown["x"], shown["y"], 0.13 * shown["radius"]
    canvas.ellipse((x - r, y - r, x + r, y + r), tuple(shown["short_ink"]))
    return [canvas.done()]


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    words = {"shape": graph["shape"], "marks": MARKS[graph["marks"]], "time": written(_minutes(graph))}
    return say("clock", "told", random, "train", tongue, **words)[0]


def places(graph: dict[str, Any]) -> list[Place]:
    """At the end of each hand what it says: the hour in words, the minutes in digits."""
    shown, size = graph["look"], 0.5 * graph["look"]["radius"]
    found = []
    for which, angle, said in (
        ("short", 2 * pi * (graph["hour"] + graph["minute"] / 60) / 12, NUMERALS[graph["hour"]]),
        ("long", 2 * pi * graph["minute"] / 60, str(graph["minute"])),
    ):
        reach = shown["radius"] * (shown[which] - 0.25)
        x, y = shown["x"] + reach * sin(angle), shown["y"] - reach * cos(angle)
        found.append(Place(around(x, y, size, size), (said,)))
    return found


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked = Inquiry("clock", "clocks", random, split, tongue)
    now, hour, minute = _minutes(graph), graph["hour"], graph["minute"]
    asked.ask("time", written(now), "vision", "reasoning", accept=also(now))
    asked.ask("hour", hour, "vision")
    asked.ask("minutes", minute, "vision", "reasoning")
    asked.ask("long_hand", minute // 5 or 12, "vision")
    _ask_order(asked, random, now)
    here = random.random() < 0.5
    asked.ask("is_it", here, "vision", "reasoning", time=written(now if here else _near_miss(random, now)))
    span = random.choice(list(SPANS))
    then = now + SPANS[span]
    asked.ask("later", written(then), "vision", "reasoning", accept=also(then), span=span)
    span = random.choice(list(SPANS))
    then = now - SPANS[span]
    asked.ask("earlier", written(then), "vision", "reasoning", accept=also(then), span=span)
    asked.ask("shape", graph["shape"], "vision")
    asked.ask("numbers", graph["marks"] in NUMBERED, "vision")
    return asked.shuffled()


def written(minutes: int) -> str:
    """A time as the answers have it: "3:25"; the minutes are those since twelve."""
    hour, minute = divmod(minutes % DAY, 60)
    return f"{hour or 12}:{minute:02d}"


def also(minutes: int) -> tuple[str, ...]:
    """The other ways to write this time that are as right."""
    hour, minute = divmod(minutes % DAY, 60)
    words = [words.format(hour=hour or 12) for words in WORDED.get(minute, ())]
    if minute == 45:
        words.append(f"quarter to {hour + 1}")
    afternoon = {f"{hour:02d}:{minute:02d}", f"{hour + 12}:{minute:02d}"} - {written(minutes)}
    return (f"{hour or 12}.{minute:02d}", *sorted(afternoon), *words)


def _minutes(graph: dict[str, Any]) -> int:
    return int(graph["hour"]) % 12 * 60 + int(graph["minute"])


def _ask_order(asked: Inquiry, random: Random, now: int) -> None:
    """Before or after some full hour, as often so as not; between twelve and one there is no telling."""
    if now < 60:
        return
    name, true = random.choice(["before", "after"]), random.random() < 0.5
    hours = [hour for hour in range(1, 12) if (now < 60 * hour if name == "before" else now > 60 * hour) == true]
    if hours:
        asked.ask(name, true, "vision", "reasoning", time=f"{random.choice(hours)}:00")


def _near_miss(random: Random, now: int) -> int:
    """A time that is easily taken for this one: another hour, other minutes, or the hands mixed up."""
    hour, minute = divmod(now, 60)
    mixed = minute // 5 * 60 + hour * 5
    others = [now + 60, now - 60, now + 5, now - 5, now + 30, mixed, random.randrange(0, DAY, 5)]
    return random.choice([other for other in others if (other - now) % DAY])


def _look(random: Random, tone: str) -> dict[str, Any]:
    shown = look(random)
    dark_dial = tone == "dark"
    dial = [random.randint(15, 60) if dark_dial else random.randint(205, 255) for _ in range(3)]
    inks = LIGHT_INKS if dark_dial else DARK_INKS
    short_ink = random.choice(inks)
    long_ink = random.choice(inks) if random.random() < 0.4 else short_ink
    radius = random.uniform(0.38, 0.48)
    return {
        **shown,
        "x": round(random.uniform(radius + 0.01, 0.99 - radius), 4),
        "y": round(random.uniform(radius + 0.01, 0.99 - radius), 4),
        "radius": round(radius, 4),
        "dial": dial,
        "ink": list(inks[0]),
        "short_ink": list(short_ink),
        "long_ink": list(long_ink),
        "rim": [random.randint(20, 190) for _ in range(3)],
        "rim_width": round(random.uniform(0.012, 0.04), 4),
        "font": random.choice(FONTS),
        "thick": round(random.uniform(0.075, 0.11), 4),
        "short": round(random.uniform(0.44, 0.52), 4),
        "long": round(random.uniform(0.8, 0.9), 4),
        "small_strokes": random.random() < 0.4,
    }


def _draw_dial(canvas: Canvas, graph: dict[str, Any]) -> None:
    shown, marks = graph["look"], graph["marks"]
    x, y, r = shown["x"], shown["y"], shown["radius"]
    paint = canvas.ellipse if graph["shape"] == "round" else canvas.rectangle
    paint((x - r, y - r, x + r, y + r), tuple(shown["dial"]), tuple(shown["rim"]), shown["rim_width"])
    ink: Colour = tuple(shown["ink"])
    inner = r - shown["rim_width"]
    if marks == "strokes" or (marks in NUMBERED and shown["small_strokes"]):
        for spot in range(12):
            length = (0.86 if spot % 3 else 0.8) if marks == "strokes" else 0.94
            angle = 2 * pi * spot / 12
            ends = [_rim(shown, graph["shape"], angle, inner * share) for share in (0.98, length)]
            canvas.line(ends, ink, 0.022 if spot % 3 == 0 else 0.014)
    if marks in NUMBERED:
        height = 0.28 * r if marks == "numbers" else 0.34 * r
        for number in range(1, 13) if marks == "numbers" else (12, 3, 6, 9):
            place = _rim(shown, graph["shape"], 2 * pi * number / 12, inner * 0.8)
            canvas.text(place, str(number), height, name=shown["font"], fill=ink)


def _rim(shown: dict[str, Any], shape: str, angle: float, reach: float) -> Point:
    """The point of a dial in the direction of an hour; a square reaches further in its corners."""
    east, south = sin(angle), -cos(angle)
    if shape == "square":
        reach /= max(abs(east), abs(south))
    return shown["x"] + reach * east, shown["y"] + reach * south


def _draw_hand(canvas: Canvas, graph: dict[str, Any], angle: float, which: str) -> None:
    """A hand with a thin gap around it, so that both can be seen where one lies on the other."""
    shown, edge = graph["look"], HANDS[graph["hands"]]
    reach, half = shown[which] * shown["radius"], shown["thick"] * shown["radius"] * THIN[which]
    east, south = sin(angle), -cos(angle)
    outline = [(-1.2 * half, half), *((along * reach, across * half) for along, across in edge)]
    sides = [*outline, *((along, -across) for along, across in reversed(outline))]
    x, y = shown["x"], shown["y"]
    points = [(x + along * east - across * south, y + along * south + across * east) for along, across in sides]
    canvas.polygon(points, tuple(shown["dial"]), tuple(shown["dial"]), 0.02)
    canvas.polygon(points, tuple(shown[f"{which}_ink"]))
