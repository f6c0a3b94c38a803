"""Media to pixel values for training: decoding scaled to the need, and a stage's random crop.

A crop is a pure function of its key, so a resumed run sees the same one. Pictures are never mirrored: a flip would
turn left into right and make writing unreadable while the words beside it stay. How a whole picture becomes a square
is the processor's rule, not known here.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

from PIL import Image
from torch import Tensor

from mplug_owl.media import Limits, load_image, load_video
from mplug_owl.media.images import decoding, in_memory, open_image
from mplug_owl.media.limits import USUAL
from mplug_owl.media.source import named, read
from mplug_owl.messages import ImagePart, VideoPart

Size = tuple[int, int]  # width, height
_NARROWEST = 3 / 4  # of a crop: width by height, and its inverse is the widest


class Viewer(Protocol):
    """What loading pixels asks of a processor."""

    image_processor: Any
    num_frames: int

    def clip_pixels(self, frames: Any) -> Tensor: ...


@dataclass(frozen=True)
class Pixels:
    """Loads the media of a row as a stage wants to see them."""

    processor: Viewer
    decode: Literal["exact", "fast"] = "exact"
    random_resized_crop: tuple[float, float] | None = None
    """Area range of the crop."""
    limits: Limits = USUAL

    def load(self, part: ImagePart | VideoPart, key: str) -> Tensor:
        """[3, X, Y] of an image, [T, 3, X, Y] of a video; `key` decides the random crop.

        Raises: DataError where the source cannot be had or decoded.
        """
        if isinstance(part, VideoPart):
            frames = part.num_frames or self.processor.num_frames
            pictures = load_video(part.source, frames, self.limits)
            if self.random_resized_crop is None:
                return self.processor.clip_pixels(pictures)
            pictures = [self._cropped(picture, picture.size, key) for picture in pictures]
            return self._squared(pictures)
        if self.decode == "fast":
            picture, size = load_scaled(part.source, self._least(key), self.limits)
        else:
            picture = load_image(part.source, self.limits)
            size = picture.size
        if self.random_resized_crop is None:
            return self.processor.image_processor([picture])["pixel_values"][0]
        return self._squared([self._cropped(picture, size, key)])[0]

    def _squared(self, pictures: list[Image.Image]) -> Tensor:
        return self.processor.image_processor(pictures, aspect="square")["pixel_values"]

    def _cropped(self, picture: Image.Image, size: Size, key: str) -> Image.Image:
        """The crop of a picture that was `size` large before it was decoded to a smaller one."""
        assert self.random_resized_crop is not None
        left, top, right, bottom = crop_box(size, self.random_resized_crop, Random(key))
        across, down = picture.width / size[0], picture.height / size[1]
        first = (math.floor(left * across), math.floor(top * down))
        last = (math.ceil(right * across), math.ceil(bottom * down))
        return picture.crop((*first, min(last[0], picture.width), min(last[1], picture.height)))

    def _least(self, key: str) -> Callable[[Size], Size]:
        """How large a picture must at least be decoded, so that what is shown is not enlarged."""
        edge = self.processor.image_processor.size["height"]

        def least(size: Size) -> Size:
            shown = size
            if self.random_resized_crop is not None:
                left, top, right, bottom = crop_box(size, self.random_resized_crop, Random(key))
                shown = (right - left, bottom - top)
            return (math.ceil(size[0] * edge / shown[0]), math.ceil(size[1] * edge / shown[1]))

        return least


def load_scaled(source: Any, least: Callable[[Size], Size], limits: Limits = USUAL) -> tuple[Image.Image, Size]:
    """A picture and its size in the file. A JPEG may come out 2, 4 or 8 times smaller, which is much faster, but not
    smaller than `least` of its size; other pictures come as they are.

    Raises: DataError as `load_image` does.
    """
    if (made := in_memory(source, limits)) is not None:
        return made, made.size
    name = named(source)
    with decoding(name):
        image = open_image(io.BytesIO(read(source, limits)), limits, name)
        size = image.size
        animated = getattr(image, "n_frames", 1) > 1
        image.draft(image.mode, least(size))  # only JPEG decoders listen
        image.load()
        return image.copy() if animated else image, size


def crop_box(size: Size, area: tuple[float, float], random: Random) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a crop that covers a share of the area drawn from `area`, with sides in a ratio from
    3:4 to 4:3 as far as the picture has room for it.
    """
    width, height = size
    share = random.uniform(*area)
    ratio = math.exp(random.uniform(math.log(_NARROWEST), -math.log(_NARROWEST)))
    wide = math.sqrt(share * width * height * ratio)
    # A side that does not fit is cut to the picture; the other one keeps what it can of the area.
    wide = min(max(wide, share * width), width)
    across = max(round(wide), 1)
    down = max(min(round(share * width * height / wide), height), 1)
    left = random.randint(0, width - across)
    top = random.randint(0, height - down)
    return left, top, left + across, top + down
