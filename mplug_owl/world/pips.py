"""Pips on tiles: where the dots of a number lie, and how a rounded tile with them is drawn at any turn.

It knows a canvas, and nothing of dice, dominoes and questions.
"""

from math import cos, pi, radians, sin
from typing import Any

from mplug_owl.world.canvas import Canvas, Colour, Point

_A, _B = -0.25, 0.25
_SPOTS: dict[int, list[Point]] = {
    0: [],
    1: [(0, 0)],
    2: [(_A, _A), (_B, _B)],
    3: [(_A, _A), (0, 0), (_B, _B)],
    4: [(_A, _A), (_B, _A), (_A, _B), (_B, _B)],
    5: [(_A, _A), (_B, _A), (0, 0), (_A, _B), (_B, _B)],
    6: [(_A, _A), (_B, _A), (_A, 0), (_B, 0), (_A, _B), (_B, _B)],
}
_CORNER = [(cos(pi / 8 * i), sin(pi / 8 * i)) for i in range(5)]  # a quarter of a circle


class Tile:
    """A rounded rectangle on a canvas: its own coordinates are in units of `size`, (0, 0) in its middle."""

    def __init__(self, canvas: Canvas, x: float, y: float, size: float, degrees: float) -> None:
        self.canvas, self.x, self.y, self.size = canvas, x, y, size
        self.cos, self.sin = cos(radians(degrees)) * size, sin(radians(degrees)) * size

    def at(self, x: float, y: float) -> Point:
        return self.x + x * self.cos - y * self.sin, self.y + x * self.sin + y * self.cos

    def board(self, width: float, height: float, round_off: float, fill: Any, edge: Any, shadow: Any) -> None:
        a, b = width / 2 - round_off, height / 2 - round_off
        middles = ((a, b), (-a, b), (-a, -b), (a, -b))
        rim = []
        for (x, y), turn in zip(middles, ((1, 0), (0, 1), (-1, 0), (0, -1)), strict=True):
            for c, s in _CORNER:
                across, down = c * turn[0] - s * turn[1], c * turn[1] + s * turn[0]
                rim.append(self.at(x + round_off * across, y + round_off * down))
        slip = 0.07 * self.size
        self.canvas.polygon([(x + slip, y + slip) for x, y in rim], fill=shadow)
        self.canvas.polygon(rim, fill=fill, outline=edge, width=0.035 * self.size)

    def pips(self, number: int, x: float, y: float, radius: float, fill: Any, square: bool) -> None:
        """The dots of a number around a point of the tile."""
        for dx, dy in _SPOTS[number]:
            if square:
                corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
                points = [self.at(x + dx + 0.9 * radius * i, y + dy + 0.9 * radius * j) for i, j in corners]
                self.canvas.polygon(points, fill=fill)
            else:
                (cx, cy), r = self.at(x + dx, y + dy), radius * self.size
                self.canvas.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)

    def bar(self, a: Point, b: Point, width: float, fill: Any) -> None:
        self.canvas.line([self.at(*a), self.at(*b)], fill, width * self.size)


def shaded(colour: Colour, share: float) -> Colour:
    """A darker or (above 1) lighter one."""
    red, green, blue = (max(0, min(255, round(part * share))) for part in colour)
    return red, green, blue


def pip_colour(board: Colour) -> Colour:
    """White dots on dark boards, black dots on light ones."""
    bright = 0.3 * board[0] + 0.6 * board[1] + 0.1 * board[2] > 125
    return (15, 15, 15) if bright else (250, 250, 250)
