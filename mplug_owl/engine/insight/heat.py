"""Heat on pictures: a map as a small coloured tile, and the tile laid over the part of a picture it covers.

Where nothing came from, a picture is dark; where most came from, it glows. What the numbers mean is not
known here.
"""

import numpy as np
from PIL import Image
from torch import Tensor

from mplug_owl.engine.insight.look import View

# Red, green, blue and opacity over a picture, from nothing to the most.
_RAMP = np.array(
    [[10, 10, 55, 165], [90, 20, 140, 150], [220, 50, 80, 140], [250, 140, 40, 125], [255, 235, 90, 110]], np.float64
)
_FAINT = 0.6
"""Shares to this power make the colour, so that what is faint is seen too."""
UNSEEN = (128, 128, 128, 215)
"""Over what the model was not shown of a picture."""


def tile(heat_GG: Tensor, most: float) -> Image.Image:
    """A map as RGBA, a pixel for each patch; `most` is the value of the brightest."""
    shares = np.clip(heat_GG.double().numpy() / max(most, 1e-12), 0, 1) ** _FAINT * (len(_RAMP) - 1)
    low = np.minimum(shares.astype(int), len(_RAMP) - 2)
    part = (shares - low)[..., None]
    return Image.fromarray(((1 - part) * _RAMP[low] + part * _RAMP[low + 1]).round().astype(np.uint8))


def overlaid(view: View, heat_GG: Tensor, most: float, size: tuple[int, int]) -> Image.Image:
    """The picture at that size under its map."""
    picture = view.picture.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    left, top, right, bottom = (round(share * edge) for share, edge in zip(view.box, size * 2, strict=True))
    cover = Image.new("RGBA", size, UNSEEN)
    cover.paste(tile(heat_GG, most).resize((right - left, bottom - top), Image.Resampling.BILINEAR), (left, top))
    return Image.alpha_composite(picture, cover).convert("RGB")


def fitted(size: tuple[int, int], wide: int, high: int) -> tuple[int, int]:
    """The largest size of the same shape that fits."""
    scale = min(wide / size[0], high / size[1])
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
