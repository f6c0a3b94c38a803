"""How a flow chart stands on the page: layouts of its steps, boxes, diamonds and arrows with heads.

It knows places and pixels, not questions. A layout may be mirrored, so that charts run up and to the left as well.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from PIL import Image

from mplug_owl.world.canvas import Canvas, Colour, Point

# By layout, the numbers of steps that it has room for.
CHAINS = {
    "column": (3, 4, 5),
    "row": (3,),
    "snake": (3, 4, 5),
    "bend": (4, 5),
    "wide": (4, 5),
    "stairs": (3, 4),
    "weave": (3, 4, 5),
}
# By layout with a question, what may follow its two ways.
FORKS = {"fork": ("", "tail", "join"), "side": ("",), "beside": ("", "tail")}
NARROW = ("row", "wide", "side")  # layouts with room for words of three letters
FONTS = ("DejaVuSans", "DejaVuSansMono", "DejaVuSansMono-Bold")
SMALLEST = 0.085  # of the side, the height of letters
LIGHT = ([255, 255, 255], [220, 235, 255], [255, 240, 200], [215, 245, 215], [255, 222, 222], [235, 225, 250])
DARK = ([30, 60, 130], [120, 30, 40], [20, 90, 60], [60, 60, 66], [85, 40, 110], [20, 20, 24])
LABEL = 0.09  # of the side, the height of yes and no
_HEAD = 0.045  # length of an arrow's head


@dataclass
class Plan:
    """Where everything is, before mirroring."""

    places: list[Point]
    half: Point
    """Half the width and the height of a box."""
    bends: dict[int, Point] = field(default_factory=dict)
    """By step, where the arrow that leads to it turns."""
    labels: list[Point] = field(default_factory=list)
    """Of the two ways of a question."""
    diamond: Point = (0.0, 0.0)
    """Half the width and the height of a question."""


def style(random: Random) -> dict[str, Any]:
    dark = random.random() < 0.3
    fills = random.sample(DARK if dark else LIGHT, 2)
    return {
        "font": random.choice(FONTS),
        "fills": fills if random.random() < 0.7 else [fills[0], fills[0]],
        "dark": dark,
        "form": random.choice(["box", "box", "round", "pill"]),
        "stroke": random.choice([0.01, 0.014, 0.02]),
        "mirrored": [random.random() < 0.3, random.random() < 0.3],
        "shift": [round(random.uniform(-0.015, 0.015), 4) for _ in range(2)],
    }


def plan(name: str, count: int, more: str) -> Plan:
    if name in FORKS:
        return _fork_plan(name, count - 3 - bool(more), more)
    tall = [(i + 0.5) / count for i in range(count)]
    three = (0.17, 0.5, 0.83)
    columns, rows = (0.26, 0.74), (0.28, 0.72) if count < 5 else three
    if name == "column":
        return Plan([(0.5, y) for y in tall], (0.24, (0.11, 0.085, 0.068)[count - 3]))
    if name == "weave":
        return Plan([(columns[i % 2], y) for i, y in enumerate(tall)], (0.18, (0.1, 0.085, 0.068)[count - 3]))
    if name == "stairs":
        return Plan(
            [(0.2 + 0.6 * i / (count - 1), y) for i, y in enumerate(tall)], (0.17, 0.085 if count < 4 else 0.07)
        )
    if name == "row":
        return Plan([(x, 0.5) for x in three], (0.125, 0.1))
    if name == "wide":
        return Plan([*((x, 0.3) for x in three), *((x, 0.7) for x in three[::-1])][:count], (0.125, 0.09))
    if name == "snake":
        return Plan([(columns[(i + 1) // 2 % 2], rows[i // 2]) for i in range(count)], (0.17, 0.09))
    assert name == "bend", name
    down = [(columns[0], y) for y in rows]
    up = [(columns[1], y) for y in reversed(rows)]
    return Plan([*down, *up][:count], (0.17, 0.09))


def _fork_plan(name: str, start: int, more: str) -> Plan:
    """Plans of a question: perhaps a step before it, then it, its two ways, and perhaps one step more."""
    if name == "side":
        x, wide = ((0.5, 0.855) if start else (0.27, 0.74)), (0.125 if start else 0.17)
        places = [(0.145, 0.5)] * start + [(x[0], 0.5), (x[1], 0.2), (x[1], 0.8)]
        bends = {start + 1: (x[0], 0.2), start + 2: (x[0], 0.8)}
        labels = [(x[0] - 0.1, 0.27), (x[0] - 0.1, 0.73)]
        return Plan(places, (wide, 0.09), bends, labels, (0.175 if start else 0.22, 0.13))
    rows = start + 2 + bool(more)
    y = [(i + 0.5) / rows for i in range(rows)]
    half, diamond = (0.165, (0.11, 0.09, 0.068)[rows - 2]), (0.23, (0.17, 0.14, 0.11)[rows - 2])
    at, below = y[start], y[start + 1]
    if name == "beside":
        places = [(0.28, row) for row in y]
        places.insert(start + 2, (0.82, at))
        labels = [(0.388, (at + diamond[1] + below - half[1]) / 2), (0.57, at - 0.065)]
        return Plan(places, (0.16, half[1]), {}, labels, diamond)
    assert name == "fork", name
    places = [(0.5, row) for row in y[: start + 1]] + [(0.19, below), (0.81, below)]
    if more:
        places.append((0.5 if more == "join" else 0.19, y[-1]))
    labels = [(0.12, at - 0.06), (0.88, at - 0.06)]
    return Plan(places, half, {start + 1: (0.19, at), start + 2: (0.81, at)}, labels, diamond)


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    canvas, look, steps, fork = Canvas(side, graph["look"]), graph["look"], graph["steps"], graph["fork"]
    made = plan(*look["layout"])
    places = [_mirror(place, look) for place in made.places]
    halves = [made.diamond if i == fork else made.half for i in range(len(steps))]
    for start, end, answer in graph["arrows"]:
        bend = made.bends.get(end) if start == fork else None
        path = [places[start], *([_mirror(bend, look)] if bend else []), places[end]]
        path[0] = _edge(path[0], path[1], halves[start], start == fork)
        path[-1] = _edge(path[-1], path[-2], halves[end], end == fork)
        _arrow(canvas, path)
        if answer:
            spot = _mirror(made.labels[end - start - 1], look)
            canvas.text(spot, answer, LABEL, name="DejaVuSans-Bold")
    em = letters(canvas, steps, made, fork)
    for i, (step, place) in enumerate(zip(steps, places, strict=True)):
        fill, ink = tuple(look["fills"][i == fork]), (250, 250, 250) if look["dark"] else (15, 15, 20)
        _box(canvas, place, halves[i], "diamond" if i == fork else look["form"], fill)
        canvas.text(place, step, em, name=look["font"], fill=ink)
    return [canvas.done()]


def letters(canvas: Canvas, steps: list[str], made: Plan, fork: int | None) -> float:
    """The height of letters with which every step fits into its box; a wide word has less room around it."""
    sizes = [min(1.6 * made.half[1], 0.15)]
    for i, step in enumerate(steps):
        room = 1.3 * made.diamond[0] if i == fork else 2 * made.half[0] - 0.055
        sizes.append(room / (canvas.width_of(step, 0.25, canvas.look["font"]) / 0.25))
    return max(SMALLEST, min(sizes))


def _mirror(point: Point, look: dict[str, Any]) -> Point:
    x, y = (1 - value if flip else value for value, flip in zip(point, look["mirrored"], strict=True))
    return x + look["shift"][0], y + look["shift"][1]


def _edge(centre: Point, towards: Point, half: Point, diamond: bool) -> Point:
    """Where a line from the centre of a box leaves it."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    shares = abs(across) / half[0], abs(down) / half[1]
    reach = 1 / (sum(shares) if diamond else max(shares))
    return centre[0] + reach * across, centre[1] + reach * down


def _arrow(canvas: Canvas, path: list[Point]) -> None:
    (x0, y0), (x, y) = path[-2:]
    far = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
    along = ((x - x0) / far, (y - y0) / far)
    foot = (x - along[0] * _HEAD, y - along[1] * _HEAD)
    canvas.line([*path[:-1], foot], canvas.ink, canvas.look["stroke"])
    wing = (-along[1] * _HEAD * 0.62, along[0] * _HEAD * 0.62)
    canvas.polygon([(x, y), (foot[0] + wing[0], foot[1] + wing[1]), (foot[0] - wing[0], foot[1] - wing[1])], canvas.ink)


def _box(canvas: Canvas, place: Point, half: Point, form: str, fill: Colour) -> None:
    (x, y), (wide, high) = place, half
    if form == "diamond":
        canvas.polygon([(x - wide, y), (x, y - high), (x + wide, y), (x, y + high)], fill, canvas.ink, 0.01)
        return
    corner = {"box": 0.0, "round": 0.4, "pill": 1.0}[form] * high * canvas.pixels
    corners = canvas.at((x - wide, y - high), (x + wide, y + high))
    canvas.draw.rounded_rectangle(corners, corner, fill=fill, outline=canvas.ink, width=canvas.stroke(0.01))
