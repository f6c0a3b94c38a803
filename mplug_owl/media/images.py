"""Pictures from any source, in their own mode; the header is checked before pixels are decoded."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol, cast, runtime_checkable

from PIL import Image, UnidentifiedImageError

from mplug_owl.errors import DataError
from mplug_owl.media.limits import USUAL, Clocked, Limits, Tally, check_pixels
from mplug_owl.media.source import named, read

# Formats that Pillow decodes itself, and whose header tells the size of what is decoded: EPS would run programs, an
# icon holds pictures of other sizes than it says.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")


@runtime_checkable
class Drawable(Protocol):
    """What draws its picture when it is looked at."""

    def picture(self) -> Image.Image: ...


def in_memory(source: Any, limits: Limits = USUAL) -> Image.Image | None:
    """The picture of a source that need not be decoded, drawn if need be; None of any other."""
    if isinstance(source, Drawable):
        source = source.picture()
    if not isinstance(source, Image.Image):
        return None
    check_pixels(source.size, limits, "image")
    return source


def load_image(source: Any, limits: Limits = USUAL, tally: Tally | None = None) -> Image.Image:
    """A picture in its own mode, the first of an animation; it counts on the tally, if there is one.

    Raises: DataError where the source cannot be had, is no picture, is damaged or too large.
    """
    tally = tally or Tally(limits)
    if (made := in_memory(source, limits)) is not None:
        tally.add(made.size, "image")
        return made
    name = named(source)
    with decoding(name):
        image = open_image(Clocked(io.BytesIO(read(source, limits)), limits, name), limits, name)
        tally.add(image.size, name)
        animated = getattr(image, "is_animated", False)  # counting the frames would read all of the file
        image.load()
        return image.copy() if animated else image


def open_image(stream: IO[bytes] | Clocked, limits: Limits, name: str) -> Image.Image:
    """The picture of a stream, its header read and its size checked."""
    image = Image.open(cast(IO[bytes], stream), formats=_FORMATS)
    check_pixels(image.size, limits, name)
    return image


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises over bad data into a DataError."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name} is no image or video of a kind that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large to open: {error}; make it smaller") from None
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, zlib.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} cannot be decoded ({reason}); it is damaged or cut short") from error
