"""How flags are painted and hung: a flat cloth from a flag's layers, then turned, waved and lit on a canvas.

It knows nothing of countries' facts, scenes and questions.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from math import cos, pi, radians, sin
from typing import Any

from PIL import Image, ImageChops, ImageDraw

from mplug_owl.world.canvas import Canvas, Point
from mplug_owl.world.countries import BY_NAME, Layer

Box = tuple[float, float, float, float]
STRIPS = 10  # of a waving cloth, each bent as a whole
NEAR = 90  # a cloth with a colour this near to the background (in RGB, summed) gets an edge


@lru_cache(maxsize=64)
def cloth(name: str, height: int) -> Image.Image:
    """A country's flag, flat, so many pixels high."""
    flag = BY_NAME[name].flag
    tall = 2 * height
    image = Image.new("RGB", (round(tall * flag.ratio), tall))
    brush = ImageDraw.Draw(image)
    for layer in flag.layers:
        if layer.kind == "crescent":
            x, y, r, cut_x, cut_y, cut_r = (number * tall for number in layer.numbers)
            brush.ellipse((x - r, y - r, x + r, y + r), layer.colours[0])
            brush.ellipse((cut_x - cut_r, cut_y - cut_r, cut_x + cut_r, cut_y + cut_r), layer.colours[1])
        elif layer.kind == "disc":
            x, y, r = (number * tall for number in layer.numbers)
            brush.ellipse((x - r, y - r, x + r, y + r), layer.colours[0])
        else:
            for colour, points in PIECES[layer.kind](layer, flag.ratio):
                brush.polygon([(x * tall, y * tall) for x, y in points], layer.colours[colour])
    return image.reduce(2).convert("RGBA")


def hang(canvas: Canvas, name: str, hung: dict[str, Any]) -> None:
    """A flag on the canvas: "x", "y" and "width" in shares of the side; "wave" is a share of its height."""
    width, height = hung["width"], hung["width"] / BY_NAME[name].flag.ratio
    x0, y0, turn, wave, phase = hung["x"], hung["y"], radians(hung["angle"]), hung["wave"] * height, hung["phase"]

    def place(u: float, v: float) -> Point:
        x, y = (u - 0.5) * width, (v - 0.5) * height + wave * sin(2 * pi * u + phase)
        return x0 + x * cos(turn) - y * sin(turn), y0 + x * sin(turn) + y * cos(turn)

    def source(x: float, y: float) -> Point:
        along, down = (x - x0) * cos(turn) + (y - y0) * sin(turn), (y - y0) * cos(turn) - (x - x0) * sin(turn)
        u = along / width + 0.5
        return u, (down - wave * sin(2 * pi * u + phase)) / height + 0.5

    steps = [i / STRIPS for i in range(STRIPS + 1)] if wave else [0.0, 1.0]
    border = [*(place(u, 0.0) for u in steps), *(place(u, 1.0) for u in reversed(steps))]
    if hung["pole"]:
        foot = place(0.0, 6.0)
        canvas.line([place(-0.025, -0.06), (foot[0] - 0.025 * width, foot[1])], tuple(hung["pole"]), 0.05 * width)
    _lay(canvas, cloth(name, round(canvas.side * 4 / 3)), border, source, hung, len(steps) - 1)
    if hung["edge"] or _melts(name, canvas.look["background"]):
        canvas.line([*border, border[0], border[1]], (120, 120, 120), 0.012)


def _lay(
    canvas: Canvas,
    flat: Image.Image,
    border: list[Point],
    source: Callable[[float, float], Point],
    hung: dict[str, Any],
    strips: int,
) -> None:
    """Pull the flat cloth through `source` onto the canvas, strip by strip, and light it."""
    side = canvas.pixels
    xs, ys = [x * side for x, _ in border], [y * side for _, y in border]
    left, top, right, bottom = int(min(xs)), int(min(ys)), int(max(xs)) + 1, int(max(ys)) + 1
    cuts = [round((right - left) * i / strips) for i in range(strips + 1)]
    mesh = []
    for start, end in pairwise(cuts):
        corners = [(start, 0), (start, bottom - top), (end, bottom - top), (end, 0)]
        ends = [source((left + x) / side, (top + y) / side) for x, y in corners]
        quad = [length for u, v in ends for length in (u * flat.width, v * flat.height)]
        mesh.append(((start, 0, end, bottom - top), quad))
    size = (right - left, bottom - top)
    laid = flat.transform(size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    shades = [hung["light"] + hung["shade"] * cos(2 * pi * i / STRIPS + hung["phase"]) for i in range(STRIPS + 1)]
    light = Image.frombytes("L", (len(shades), 1), bytes(max(0, min(255, round(255 * shade))) for shade in shades))
    row = light.resize(size, Image.Resampling.BILINEAR)
    lit = ImageChops.multiply(laid.convert("RGB"), Image.merge("RGB", (row, row, row)))
    canvas.image.paste(lit, (left, top), laid.getchannel("A"))


def _melts(name: str, background: list[int]) -> bool:
    """Whether some colour of the flag could be taken for the background."""
    colours = {colour for layer in BY_NAME[name].flag.layers for colour in layer.colours}
    return any(sum(abs(a - b) for a, b in zip(colour, background, strict=True)) < NEAR for colour in colours)


# How a layer is painted: polygons with the number of their colour, in heights of the flag.
Piece = tuple[int, list[Point]]


def _box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _stripes(layer: Layer, ratio: float) -> list[Piece]:
    total, start, found = sum(layer.weights), 0, []
    for i, weight in enumerate(layer.weights):
        a, b = start / total, (start + weight) / total
        found.append((i, _box(a * ratio, 0, b * ratio, 1) if layer.kind == "columns" else _box(0, a, ratio, b)))
        start += weight
    return found


def _quarters(layer: Layer, ratio: float) -> list[Piece]:
    half = ratio / 2
    places = [_box(0, 0, half, 0.5), _box(half, 0, ratio, 0.5), _box(0, 0.5, half, 1), _box(half, 0.5, ratio, 1)]
    return list(enumerate(places))


def _sides(layer: Layer, ratio: float) -> list[Piece]:
    top_and_bottom: list[Point] = [(0, 0), (ratio, 0), (0, 1), (ratio, 1)]
    return [(1, _box(0, 0, ratio, 1)), (0, top_and_bottom)]


def _bar(layer: Layer, ratio: float) -> list[Piece]:
    width, *height = layer.numbers
    return [(0, _box(0, 0, width, *(height or [1.0])))]


def _triangle(layer: Layer, ratio: float) -> list[Piece]:
    tip, half = layer.numbers
    return [(0, [(0, 0.5 - half), (tip, 0.5), (0, 0.5 + half)])]


def _teeth(layer: Layer, ratio: float) -> list[Piece]:
    inner, outer = layer.numbers
    edge = [((inner, outer)[i % 2], i / 18) for i in range(19)]  # nine points
    return [(0, [*edge, (ratio, 1), (ratio, 0)])]


def _cross(layer: Layer, ratio: float) -> list[Piece]:
    x, width = layer.numbers
    return [(0, _box(x - width / 2, 0, x + width / 2, 1)), (0, _box(0, 0.5 - width / 2, ratio, 0.5 + width / 2))]


def _plus(layer: Layer, ratio: float) -> list[Piece]:
    x, y, length, width = layer.numbers
    a, b = length / 2, width / 2
    return [(0, _box(x - a, y - b, x + a, y + b)), (0, _box(x - b, y - a, x + b, y + a))]


def _saltire(layer: Layer, ratio: float) -> list[Piece]:
    dy = layer.numbers[0] / 2 * (1 + ratio**2) ** 0.5 / ratio  # half its width, measured upright
    down: list[Point] = [(0, -dy), (0, dy), (ratio, 1 + dy), (ratio, 1 - dy)]
    return [(0, down), (0, [(x, 1 - y) for x, y in down])]


def _star(layer: Layer, ratio: float) -> list[Piece]:
    x, y, r, turn = layer.numbers
    spikes = [(r if i % 2 == 0 else 0.382 * r, radians(36 * i - 90 + turn)) for i in range(10)]
    return [(0, [(x + length * cos(a), y + length * sin(a)) for length, a in spikes])]


def _pentagram(layer: Layer, ratio: float) -> list[Piece]:
    x, y, r, width = layer.numbers
    tips = [(x + r * cos(radians(72 * i - 90)), y + r * sin(radians(72 * i - 90))) for i in range(5)]
    return [(0, _thick(tips[i], tips[(i + 2) % 5], width)) for i in range(5)]


def _thick(a: Point, b: Point, width: float) -> list[Point]:
    dx, dy = b[0] - a[0], b[1] - a[1]
    share = width / 2 / (dx**2 + dy**2) ** 0.5
    across = (-dy * share, dx * share)
    return [(p[0] + sign * across[0], p[1] + sign * across[1]) for p, sign in ((a, 1), (b, 1), (b, -1), (a, -1))]


def _field(layer: Layer, ratio: float) -> list[Piece]:
    return [(0, _box(0, 0, ratio, 1))]


PIECES: dict[str, Callable[[Layer, float], list[Piece]]] = {
    "columns": _stripes,
    "rows": _stripes,
    "field": _field,
    "quarters": _quarters,
    "sides": _sides,
    "bar": _bar,
    "canton": _bar,
    "triangle": _triangle,
    "teeth": _teeth,
    "cross": _cross,
    "plus": _plus,
    "saltire": _saltire,
    "star": _star,
    "pentagram": _pentagram,
}
