"""How charts are drawn: axes, numbers, names, and bars, rows or a line.

It knows a chart's graph and a canvas, and nothing of questions.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from mplug_owl.world.canvas import Canvas, Point
from mplug_owl.world.shape_art import COLOURS, hides


@dataclass(frozen=True)
class _Axes:
    """Where a value stands on the page. `along` runs over the names from 0 to 1."""

    page: Canvas
    left: float
    top: float
    right: float
    bottom: float
    count: int
    most: int
    flat: bool
    spots: bool

    def at(self, along: float, value: float) -> Point:
        width, height, share = self.right - self.left, self.bottom - self.top, value / self.most
        if self.flat:
            return self.left + share * width, self.top + along * height
        return self.left + along * width, self.bottom - share * height

    def middle(self, number: int) -> float:
        return (number + 0.5) / self.count


def draw(graph: dict[str, Any], side: int) -> list[Image.Image]:
    look = graph["look"]
    page = Canvas(side, look)
    axes = _axes(page, graph)
    _scale(axes, look)
    labels = [label for label, _ in graph["entries"]]
    values = [value for _, value in graph["entries"]]
    if graph["form"] == "line":
        _curve(axes, look, values)
    else:
        _bars(axes, look, values)
    if graph["family"] != "colours":
        _labels(axes, look["font"], labels)
    if look["printed"]:
        _print(axes, graph, values)
    return [page.done()]


def _axes(page: Canvas, graph: dict[str, Any]) -> _Axes:
    """Room for numbers and names at the edges, as much as they need."""
    look, flat, line = graph["look"], graph["form"] == "rows", graph["form"] == "line"
    named = graph["family"] != "colours"
    left, top, right, bottom = look["edge"]
    numbers = 0.15 if look["top"] > 9 and not flat else 0.11
    printed = 0.11 if look["printed"] else 0.0
    if flat:
        widest = max(page.width_of(label, 0.105, look["font"]) for label, _ in graph["entries"])
        left += widest + 0.03 if named else 0.02
        right += max(printed, 0.06)  # half of the last number hangs over
        bottom += 0.11 if look["numbers"] else 0.02
    else:
        left += numbers if look["numbers"] else 0.02
        top += max(printed, 0.04) + 0.03 * line
        bottom += 0.12 + 0.015 * line if named else 0.03
    return _Axes(page, left, top, 1 - right, 1 - bottom, len(graph["entries"]), look["top"], flat, line)


def _scale(axes: _Axes, look: dict[str, Any]) -> None:
    page = axes.page
    step = 1 if axes.most <= 5 else 2
    ink = page.ink
    faint = tuple((3 * shade + mark) // 4 for shade, mark in zip(look["background"], ink, strict=True))
    for value in range(axes.most + 1):
        if value and (look["grid"] == "all" or (look["grid"] == "labelled" and value % step == 0)):
            page.line([axes.at(0, value), axes.at(1, value)], faint, 0.006)
        if look["numbers"] and value % step == 0:
            x, y = axes.at(1, value) if axes.flat else axes.at(0, value)
            place, anchor = ((x, y + 0.02), "mt") if axes.flat else ((x - 0.025, y), "rm")
            page.text(place, str(value), 0.1, name=look["font"], anchor=anchor)
    if look["frame"]:
        page.rectangle((axes.left, axes.top, axes.right, axes.bottom), None, ink, 0.008)
    ends = (
        [axes.at(0, 0), axes.at(1, 0), axes.at(1, axes.most)]
        if axes.flat
        else [axes.at(0, axes.most), axes.at(0, 0), axes.at(1, 0)]
    )
    page.line(ends, ink, 0.012)


def _bars(axes: _Axes, look: dict[str, Any], values: list[int]) -> None:
    half = look["fill"] / 2 / axes.count
    for number, (value, paint) in enumerate(zip(values, look["paints"], strict=True)):
        near, far = axes.at(axes.middle(number) - half, 0), axes.at(axes.middle(number) + half, value)
        box = (min(near[0], far[0]), min(near[1], far[1]), max(near[0], far[0]), max(near[1], far[1]))
        edge = axes.page.ink if look["outline"] or hides(paint, axes.page) else None
        axes.page.rectangle(box, COLOURS[paint], edge, 0.01)


def _curve(axes: _Axes, look: dict[str, Any], values: list[int]) -> None:
    points = [axes.at(axes.middle(number), value) for number, value in enumerate(values)]
    axes.page.line(points, COLOURS[look["paints"][0]], look["line"])
    for x, y in points:
        spot = (x - 0.025, y - 0.025, x + 0.025, y + 0.025)
        mark = axes.page.rectangle if look["square"] else axes.page.ellipse
        mark(spot, COLOURS[look["paints"][0]], axes.page.ink if look["outline"] else None, 0.01)


def _print(axes: _Axes, graph: dict[str, Any], values: list[int]) -> None:
    """Each value as a number at the end of its bar, or off its point on the side that the line leaves free."""
    for number, value in enumerate(values):
        x, y = axes.at(axes.middle(number), value)
        around = values[max(0, number - 1) : number + 2]
        valley = graph["form"] == "line" and value == min(around) and value > 1
        gap = 0.04 if graph["form"] == "line" else 0.02
        place, anchor = ((x + gap, y), "lm") if axes.flat else ((x, y + gap), "mt") if valley else ((x, y - gap), "mb")
        axes.page.text(place, str(value), 0.11, name=graph["look"]["font"], anchor=anchor)


def _labels(axes: _Axes, name: str, labels: list[str]) -> None:
    """Names beside or below their values, all of one height: the largest that fits."""
    page = axes.page
    room = 1.0 if axes.flat else 0.94 * (axes.right - axes.left) / axes.count
    widest = max(page.width_of(label, 0.115, name) for label in labels)
    height = min(0.105 if axes.flat else 0.115, 0.115 * room / widest)
    drop = 0.04 if axes.spots else 0.025
    for number, label in enumerate(labels):
        x, y = axes.at(axes.middle(number), 0)
        place, anchor = ((x - 0.025, y), "rm") if axes.flat else ((x, y + drop + 0.73 * height), "ms")
        page.text(place, label, height, name=name, anchor=anchor)
