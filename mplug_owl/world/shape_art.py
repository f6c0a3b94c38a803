"""How plain shapes are drawn: eight outlines in ten colours, of any size and turn.

It knows a canvas, and nothing of scenes and questions.
"""

from math import atan2, cos, degrees, hypot, pi, radians, sin

from mplug_owl.world.canvas import Canvas, Colour, Point

COLOURS: dict[str, Colour] = {
    "red": (215, 30, 35),
    "green": (35, 150, 50),
    "blue": (35, 75, 215),
    "yellow": (250, 215, 30),
    "orange": (250, 135, 15),
    "purple": (125, 40, 165),
    "pink": (250, 140, 195),
    "brown": (115, 70, 35),
    "black": (15, 15, 15),
    "white": (252, 252, 252),
}
_NEAR = 100  # colours less far apart than this (in RGB) are told apart by an outline
_EDGE = 0.014  # width of an outline, of the side; less around small shapes
_BAND = 0.25  # width of a ring's band, of its diameter


def _arc(centre: Point, radius: float, start: float, end: float, steps: int = 24) -> list[Point]:
    """Points on a circle from one angle to another, in degrees; as y points down, they grow clockwise."""
    angles = [radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + radius * cos(a), centre[1] + radius * sin(a)) for a in angles]


def _star() -> list[Point]:
    spikes = [(0.6 if i % 2 == 0 else 0.25, radians(36 * i - 90)) for i in range(10)]
    return [(r * cos(a), r * sin(a) + 0.03) for r, a in spikes]


def _cross() -> list[Point]:
    corner = [(0.17, -0.5), (0.17, -0.17), (0.5, -0.17)]
    return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in corner]


def _heart() -> list[Point]:
    angles = [2 * pi * i / 40 for i in range(40)]
    tall = [13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a) for a in angles]
    return [(0.53 * sin(a) ** 3, -0.07 - y / 31) for a, y in zip(angles, tall, strict=True)]


def _moon() -> list[Point]:
    """A crescent open to the right: a disc without another disc, which it meets in two tips."""
    outer = _arc((0, 0), 0.53, 50, 310)
    tip, centre = outer[-1], (0.25, 0.0)
    angle = degrees(atan2(tip[1], tip[0] - centre[0])) % 360
    inner = _arc(centre, hypot(tip[0] - centre[0], tip[1]), angle, 360 - angle)
    return [(x + 0.09, y) for x, y in outer + inner[1:-1]]


# The corners of each shape of diameter 1 around (0, 0); the round ones have none.
_CORNERS: dict[str, list[Point]] = {
    "circle": [],
    "square": [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)],
    "triangle": [(0.0, -0.56), (0.52, 0.37), (-0.52, 0.37)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "moon": _moon(),
    "ring": [],
}
SHAPES: tuple[str, ...] = tuple(_CORNERS)


def draw_shape(
    canvas: Canvas,
    shape: str,
    colour: str,
    x: float,
    y: float,
    size: float,
    turn: float = 0.0,
    outline: bool = False,
    tint: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Draw a shape of diameter `size` around (x, y), turned clockwise by `turn` degrees.

    `tint` shifts its colour a little. Where it could not be seen on the background, it has an outline in any case.
    """
    red, green, blue = (base + shift for base, shift in zip(COLOURS[colour], tint, strict=True))
    fill = (max(0, min(255, red)), max(0, min(255, green)), max(0, min(255, blue)))
    outline = outline or hides(colour, canvas)
    edge, width = canvas.ink if outline else None, min(_EDGE, size / 14)
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    if shape == "circle":
        canvas.ellipse(box, fill, edge, width)
    elif shape == "ring":
        _ring(canvas, box, fill, edge, width)
    else:
        c, s = cos(radians(turn)) * size, sin(radians(turn)) * size
        canvas.polygon([(x + u * c - v * s, y + u * s + v * c) for u, v in _CORNERS[shape]], fill, edge, width)


def hides(colour: str, canvas: Canvas) -> bool:
    """Whether a colour is too near to the background's to be seen on it."""
    pairs = zip(COLOURS[colour], canvas.look["background"], strict=True)
    return sum((a - b) ** 2 for a, b in pairs) < _NEAR**2


def _ring(
    canvas: Canvas, box: tuple[float, float, float, float], fill: Colour, edge: Colour | None, width: float
) -> None:
    band = (box[2] - box[0]) * _BAND
    canvas.ellipse(box, None, fill, band)
    if edge is not None:
        inside = (box[0] + band, box[1] + band, box[2] - band, box[3] - band)
        for ring in (box, inside):
            canvas.ellipse(ring, None, edge, width)
