"""A sign with one word or two on it: boards, road signs, stickers, in many letters and colours.

The truth is the lines of text, in lower case; whether the sign shows capitals is a matter of its look. It knows nothing
of where words come from or what they mean.
"""

from itertools import pairwise
from math import cos, pi, radians, sin
from random import Random
from string import ascii_lowercase
from typing import Any

from PIL import Image, ImageDraw

from mplug_owl.world.canvas import FONTS, Canvas, Point, look
from mplug_owl.world.chance import Split, split_of
from mplug_owl.world.inquiry import Inquiry
from mplug_owl.world.scene import SIDE, Level, Place, Question, around, choose
from mplug_owl.world.wording import say
from mplug_owl.world.words import near_miss, word

WHICH = ("the word", "the top word", "the bottom word")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
CASES = {"upper": 0.6, "title": 0.2, "lower": 0.2}
# Of a board: how much wider and higher it is than the text on it. The narrow ones are for short words.
BOARDS = {
    "rectangle": (1.12, 1.5),
    "rounded": (1.14, 1.6),
    "banner": (1.3, 1.5),
    "octagon": (1.18, 2.6),
    "arrow": (1.35, 1.7),
    "disc": (1.3, 2.9),
    "sticker": (1.35, 2.2),
    "bare": (1.0, 1.0),
}
LONG = 6  # letters from which on a word needs one of the first boards or none
PAINT = (
    *((214, 40, 40), (29, 78, 216), (22, 128, 61), (250, 204, 21), (255, 255, 255), (20, 20, 20), (234, 120, 20)),
    *(
        (120, 70, 30),
        (128, 128, 132),
        (244, 150, 190),
        (150, 205, 240),
        (110, 50, 150),
        (245, 230, 190),
        (20, 120, 120),
    ),
)
INK = ((255, 255, 255), (10, 10, 10), (20, 30, 90), (150, 15, 15), (10, 80, 30), (255, 235, 90), (90, 45, 10))
CONTRAST = 95  # at least, between letters and what is behind them, in grey levels


def make(random: Random, split: Split, level: Level) -> dict[str, Any]:
    shortest, longest, twice = (3, 4, 0.0) if level == "easy" else (3, 8, 0.2)
    lengths = list(range(shortest, longest + 1))
    if split == "train" and level == "standard":
        lengths += [3, 4, 4]
    if random.random() < twice:
        lines = [word(random, random.randint(3, 5), split) for _ in range(2)]
        while lines[0] == lines[1] or split_of("sign", " ".join(lines)) != split:
            lines[random.randrange(2)] = word(random, random.randint(3, 5), split)
    else:
        lines = [word(random, random.choice(lengths), split)]
    return {"lines": lines, "look": _look(random, lines)}


def _look(random: Random, lines: list[str]) -> dict[str, Any]:
    made = look(random)
    width = max(map(len, lines))
    boards = [name for name, (wide, _) in BOARDS.items() if wide < 1.15 or width < LONG]
    if len(lines) > 1:
        boards = ["rectangle", "rounded", "bare"]
    board = random.choice(boards)
    while True:
        paint = made["background"] if board == "bare" else list(random.choice(PAINT))
        inks = [list(ink) for ink in INK if abs(_grey(ink) - _grey(paint)) >= CONTRAST]
        if inks:
            break
    return made | {
        "board": board,
        "paint": paint,
        "ink": random.choice(inks),
        "rim": random.choice([None, "ink", "ink", list(random.choice(PAINT))]),
        "post": random.random() < 0.4,
        "ground": list(random.choice(PAINT)) if random.random() < 0.3 and board != "bare" else None,
        "case": choose(random, CASES),
        "font": random.choice(FONTS),
        "fill": round(random.uniform(min(0.9, 0.3 + 0.08 * width), 1.0), 3),
        "tilt": random.choice([0, 0, random.randint(-9, 9)]),
        "place": [round(random.random(), 3), round(random.uniform(0.15, 0.85), 3)],
    }


def _grey(colour: Any) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def key(graph: dict[str, Any]) -> str:
    return " ".join(graph["lines"])


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    look = graph["look"]
    canvas, lines = Canvas(side, look), _lines(graph)
    em, x, y, wide, high = _laid_out(canvas, lines)
    turn = radians(look["tilt"])
    if look["ground"]:
        canvas.rectangle((0, y, 1, 1), tuple(look["ground"]))
    if look["board"] != "bare":
        if look["post"]:
            for post in (-0.25, 0.25) if wide > 0.8 else (0.0,):
                canvas.line([(x + post * wide, y), (x + post * wide, 1)], (105, 92, 80), 0.04)
        rim = look["ink"] if look["rim"] == "ink" else look["rim"]
        canvas.polygon(
            [
                (x + px * cos(turn) - py * sin(turn), y + px * sin(turn) + py * cos(turn))
                for px, py in _outline(look["board"], wide, high)
            ],
            tuple(look["paint"]),
            tuple(rim) if rim else None,
            0.015,
        )
    _write(canvas, lines, em, (x, y))
    return [canvas.done()]


def _lines(graph: dict[str, Any]) -> list[str]:
    return [getattr(line, graph["look"]["case"])() for line in graph["lines"]]


def _laid_out(canvas: Canvas, lines: list[str]) -> tuple[float, float, float, float, float]:
    """The size of the letters, the middle of the board, its width and height."""
    em, wide, high = _measure(canvas, lines)
    x, y = (
        0.5 + (share - 0.5) * max(0.0, 0.98 - size)
        for share, size in zip(canvas.look["place"], (wide, high), strict=True)
    )
    return em, x, y, wide, high


def _spots(look: dict[str, Any], count: int, em: float) -> list[Point]:
    """The middles of so many lines, from the middle of the board."""
    shift = -0.2 * em if look["board"] == "arrow" else 0.0
    return [(shift, (i - (count - 1) / 2) * em * 1.05) for i in range(count)]


def _measure(canvas: Canvas, lines: list[str]) -> tuple[float, float, float]:
    """The size of the letters, and of the board around them."""
    look = canvas.look
    extra_wide, extra_high = BOARDS[look["board"]]
    unit = max(canvas.width_of(line, 0.25, look["font"]) for line in lines) / 0.25
    em = look["fill"] * min(0.94 / extra_wide / unit, 0.8 / extra_high / len(lines))
    return em, em * unit * extra_wide, min(0.96, em * len(lines) * extra_high)


def _outline(board: str, wide: float, high: float) -> list[Point]:
    """The corners of a board around the origin."""
    x, y = wide / 2, high / 2
    if board == "arrow":
        return [(-x, -y), (x - y, -y), (x, 0), (x - y, y), (-x, y)]
    if board == "banner":
        return [(-x, -y), (x, -y), (x - 0.3 * y, 0), (x, y), (-x, y), (0.3 * y - x, 0)]
    if board == "octagon":
        cut = 0.58 * y
        return [
            (-x, cut - y),
            (cut - x, -y),
            (x - cut, -y),
            (x, cut - y),
            (x, y - cut),
            (x - cut, y),
            (cut - x, y),
            (-x, y - cut),
        ]
    if board == "rounded":
        bend = 0.4 * y
        corners = [(x - bend, y - bend, 0), (bend - x, y - bend, 1), (bend - x, bend - y, 2), (x - bend, bend - y, 3)]
        return [
            (cx + bend * cos((quarter + step / 3) * pi / 2), cy + bend * sin((quarter + step / 3) * pi / 2))
            for cx, cy, quarter in corners
            for step in range(4)
        ]
    if board in ("disc", "sticker"):
        teeth = 36 if board == "disc" else 32
        dent = 1.0 if board == "disc" else 0.88
        turns = [(2 * pi * i / teeth, dent if i % 2 else 1.0) for i in range(teeth)]
        return [(x * far * cos(turn), y * far * sin(turn)) for turn, far in turns]
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _write(canvas: Canvas, lines: list[str], em: float, place: Point) -> None:
    """Lines of text about a place, turned by the tilt."""
    look, ink = canvas.look, tuple(canvas.look["ink"])
    spots = [(place[0] + x, place[1] + y) for x, y in _spots(look, len(lines), em)]
    if not look["tilt"]:
        for spot, line in zip(spots, lines, strict=True):
            canvas.text(spot, line, em, name=look["font"], fill=ink)
        return
    stencil = Image.new("L", canvas.image.size)
    pen = ImageDraw.Draw(stencil)
    for spot, line in zip(spots, lines, strict=True):
        pen.text(canvas.at(spot)[0], line, font=canvas.letters(look["font"], em), fill=255, anchor="mm")
    turned = stencil.rotate(-look["tilt"], Image.Resampling.BILINEAR, center=canvas.at(place)[0])
    canvas.image.paste(ink, mask=turned)


def places(graph: dict[str, Any]) -> list[Place]:
    """Each letter where it stands, on a line that may be turned."""
    look = graph["look"]
    canvas, lines = Canvas(SIDE, look), _lines(graph)
    em, x, y = _laid_out(canvas, lines)[:3]
    turn, found = radians(look["tilt"]), []
    for (along, down), line in zip(_spots(look, len(lines), em), lines, strict=True):
        width = canvas.width_of(line, em, look["font"])
        edges = [canvas.width_of(line[:i], em, look["font"]) - width / 2 for i in range(len(line) + 1)]
        for letter, (left, right) in zip(line.lower(), pairwise(edges), strict=True):
            across = along + (left + right) / 2
            middle = (x + across * cos(turn) - down * sin(turn), y + across * sin(turn) + down * cos(turn))
            found.append(Place(around(*middle, right - left, 0.7 * em), (letter,)))
    return found


def describe(graph: dict[str, Any], random: Random, tongue: str) -> str:
    lines = graph["lines"]
    if len(lines) == 1:
        fields = {"word": lines[0], "spelled": "-".join(lines[0]), "length": len(lines[0])}
        return say("sign", "told_one", random, "train", tongue, **fields)[0]
    fields = {}
    for place, line in zip(("top", "bottom"), lines, strict=True):
        fields |= {place: line, f"{place}_spelled": "-".join(line), f"{place}_length": len(line)}
    return say("sign", "told_two", random, "train", tongue, **fields)[0]


def questions(graph: dict[str, Any], random: Random, split: Split, tongue: str) -> list[Question]:
    asked, lines = Inquiry("sign", "ocr", random, split, tongue), graph["lines"]
    asked.ask("read", " ".join(lines), "ocr")
    if len(lines) > 1:
        asked.ask("top", lines[0], "ocr", "vision")
        asked.ask("bottom", lines[1], "ocr", "vision")
    if len(lines) > 1 or random.random() < 0.25:
        asked.ask("words", len(lines), "ocr", "vision")
    truth, right = random.choice(lines), random.random() < 0.5
    wrong = near_miss if random.random() < 0.7 else _another
    asked.ask("says", right, "ocr", word=truth if right else wrong(random, truth, split))
    spot = random.randrange(len(lines))
    _ask_letters(asked, random, lines[spot], WHICH[spot + len(lines) - 1])
    return asked.shuffled()


def _ask_letters(asked: Inquiry, random: Random, text: str, which: str) -> None:
    asked.ask("spell", "-".join(text), "ocr", "instruction", which=which)
    asked.ask("letters", len(text), "ocr", "reasoning", which=which)
    asked.ask("start", text[0], "ocr", "reasoning", which=which)
    asked.ask("end", text[-1], "ocr", "reasoning", which=which)
    nth = random.randrange(1, len(text))
    asked.ask("nth", text[nth], "ocr", "reasoning", which=which, nth=ORDINALS[nth])
    here = random.random() < 0.5
    letters = [letter for letter in ascii_lowercase if (letter in text) == here]
    asked.ask("has", here, "ocr", "reasoning", which=which, letter=random.choice(letters))


def _another(random: Random, truth: str, split: Split) -> str:
    """Another word as long as this one."""
    while (other := word(random, len(truth), split)) == truth:
        pass
    return other
