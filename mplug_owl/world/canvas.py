"""A square to draw on, in unit coordinates, with soft edges, real fonts and a little dirt.

Everything is drawn at twice the size and scaled down once. All chance of a look is in the look itself: a seed for the
noise, colours, a font; the same look gives the same pixels.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHARP = 2  # drawn this many times larger
# Shipped by matplotlib; sans, serif, mono, upright, bold and slanted.
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "STIXGeneralBol"),
)
Point = tuple[float, float]
Colour = tuple[int, int, int]


@cache
def font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    spec = find_spec("matplotlib")  # found without importing it
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), pixels)


def look(random: Random) -> dict[str, Any]:
    """A background and some dirt, as plain JSON; kinds add their own to it."""
    light = random.random() < 0.75
    base = random.randint(190, 255) if light else random.randint(0, 60)
    tint = [max(0, min(255, base + random.randint(-14, 14))) for _ in range(3)]
    return {
        "background": tint,
        "gradient": random.choice([0, 0, random.randint(8, 36)]),
        "noise": random.choice([0, 0, random.randint(2, 9)]),
        "seed": random.randrange(2**31),
    }


class Canvas:
    """Unit square, (0, 0) at the top left. Lengths are shares of the side."""

    def __init__(self, side: int, look: dict[str, Any]) -> None:
        self.side, self.look = side, look
        self.pixels = side * SHARP
        self.image = Image.new("RGB", (self.pixels, self.pixels), tuple(look["background"]))
        if look.get("gradient"):
            self._slope(look["gradient"])
        self.draw = ImageDraw.Draw(self.image)

    @property
    def dark(self) -> bool:
        return sum(self.look["background"]) < 3 * 128

    @property
    def ink(self) -> Colour:
        """A colour that can be read on this background."""
        return (240, 240, 240) if self.dark else (20, 20, 20)

    def at(self, *points: Point) -> list[Point]:
        return [(x * self.pixels, y * self.pixels) for x, y in points]

    def polygon(self, points: list[Point], fill: Any, outline: Any = None, width: float = 0.01) -> None:
        # Pillow draws an outline of any width only around a closed line.
        self.draw.polygon(self.at(*points), fill=fill)
        if outline is not None:
            self.line([*points, points[0]], outline, width)

    def ellipse(
        self, box: tuple[float, float, float, float], fill: Any, outline: Any = None, width: float = 0.01
    ) -> None:
        self.draw.ellipse(self._box(box), fill=fill, outline=outline, width=self.stroke(width))

    def rectangle(
        self, box: tuple[float, float, float, float], fill: Any, outline: Any = None, width: float = 0.01
    ) -> None:
        self.draw.rectangle(self._box(box), fill=fill, outline=outline, width=self.stroke(width))

    def line(self, points: list[Point], fill: Any, width: float = 0.01) -> None:
        self.draw.line(self.at(*points), fill=fill, width=self.stroke(width), joint="curve")

    def text(
        self, place: Point, words: str, height: float, *, name: str = "DejaVuSans", fill: Any = None, anchor: str = "mm"
    ) -> None:
        """Words with letters `height` high (of the font's size), anchored as in Pillow."""
        at = self.at(place)[0]
        self.draw.text(at, words, font=self.letters(name, height), fill=fill or self.ink, anchor=anchor)

    def width_of(self, words: str, height: float, name: str = "DejaVuSans") -> float:
        return float(self.letters(name, height).getlength(words)) / self.pixels

    def letters(self, name: str, height: float) -> ImageFont.FreeTypeFont:
        return font(name, max(4, round(height * self.pixels)))

    def stroke(self, width: float) -> int:
        return max(1, round(width * self.pixels))

    def done(self) -> Image.Image:
        """The picture at its side, with its noise."""
        image = self.image.reduce(SHARP)
        if not self.look.get("noise"):
            return image
        grain = np.random.default_rng(self.look["seed"]).integers(
            -self.look["noise"], self.look["noise"], (self.side, self.side, 1), np.int16, endpoint=True
        )
        return Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))

    def _slope(self, amount: int) -> None:
        """Lighter at one side than at the other."""
        ramp = np.linspace(-amount / 2, amount / 2, self.pixels, dtype=np.float32)
        ramp = ramp[:, None] if self.look["seed"] % 2 else ramp[None, :]
        base = np.asarray(self.look["background"], np.float32)
        shade = np.broadcast_to(ramp[..., None] + base, (self.pixels, self.pixels, 3))
        self.image = Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))

    def _box(self, box: tuple[float, float, float, float]) -> list[float]:
        return [value * self.pixels for value in box]
