"""Pictures to pixel values, exactly as the original systems did it, for every picture.

One rule, `aspect`, says how a picture becomes a square; the rest (RGB, 1/255, CLIP's mean and deviation) is shared.
Everything is Pillow and numpy. This file samples no videos; frames come decoded.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import ImagesKwargs

from mplug_owl.errors import CheckpointError, ConfigError, RequestError, did_you_mean

_COLOURS = ("image_mean", "image_std", "resample", "rescale_factor")
MAX_INTERMEDIATE_PIXELS = 64_000_000  # an intermediate picture larger than this is never made


class OwlImagesKwargs(ImagesKwargs, total=False):
    aspect: str
    edge: int | None


class OwlImageProcessorPil(PilBackend):
    """`aspect` is one of:

    "square" (Owl): resize to the square in the picture's own mode (palettes stay palettes), RGB; "crop" (Owl video,
    Owl2 without a setting): shortest edge to the size, centre crop; "pad" (Owl2): centre on a square canvas of the
    mean colour, then resize; "resize" (Owl2, recommended): resize to the square of the longest edge, then to the size.
    """

    valid_kwargs = OwlImagesKwargs
    aspect = "square"
    edge: int | None = None
    """What "crop" makes of the shortest edge, where that is more than the size."""
    size: ClassVar[dict[str, int]] = {"height": 224, "width": 224}
    resample = Image.Resampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_resize = do_rescale = do_normalize = do_convert_rgb = True

    @classmethod
    def from_clip_config(cls, config: Mapping[str, Any], aspect: str) -> "OwlImageProcessorPil":
        """Read a published preprocessor_config.json (that of a CLIP image processor).

        Raises: CheckpointError where it asks for something no release does.
        """
        size = _edge(config.get("size", 224))
        crop = _edge(config.get("crop_size", size))
        if size != crop:
            raise CheckpointError(f"preprocessor_config.json resizes to {size} and crops to {crop}; expected one size")
        for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
            if not config.get(step, True):
                raise CheckpointError(f"preprocessor_config.json has {step}=false; expected a CLIP image processor")
        kept = {key: config[key] for key in _COLOURS if key in config}
        return cls(size={"height": size, "width": size}, aspect=aspect, **kept)

    @classmethod
    def from_tower_config(cls, config: Mapping[str, Any], side: int | None = None) -> "OwlImageProcessorPil":
        """The rule of any vision tower's image processor, for pictures of `side`, or of its own size.

        Raises: CheckpointError where it does what no rule here does.
        """
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not config.get(step, True):
                raise CheckpointError(f"the image processor of the tower has {step}=false; expected one that does it")
        crops, size = config.get("do_center_crop", "crop_size" in config), config.get("size")
        edge = _edge(size or side or 224)
        own = _edge(config["crop_size"]) if crops and config.get("crop_size") else edge
        if not crops and isinstance(size, Mapping) and size.get("shortest_edge"):
            raise CheckpointError(
                "the image processor of the tower makes pictures that are no squares; expected a crop"
            )
        side = side or own
        kept = {key: config[key] for key in _COLOURS if key in config}
        wider = {"edge": round(edge * side / own)} if crops and edge != own else {}
        return cls(size={"height": side, "width": side}, aspect="crop" if crops else "square", **wider, **kept)

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        *args: Any,
        aspect: str,
        edge: int | None = None,
        size: Any,
        resample: int,
        rescale_factor: float,
        image_mean: Any,
        image_std: Any,
        **kwargs: Any,
    ) -> BatchFeature:
        if aspect not in _RULES:
            raise ConfigError(f"unknown aspect {aspect!r}{did_you_mean(aspect, _RULES)}")
        pictures = images if isinstance(images, list | tuple) else [images]
        # A byte has 256 values: looking them up gives the same numbers as the arithmetic, faster.
        levels = np.arange(256, dtype=np.float32) * np.float32(rescale_factor)
        mean, std = (np.asarray(values, np.float32) for values in (image_mean, image_std))
        tables = (levels - mean[:, None]) / std[:, None]
        pixels = np.empty((len(pictures), 3, size.height, size.width), np.float32)
        rule = partial(_crop, edge=edge) if aspect == "crop" else _RULES[aspect]
        for image, channels in zip(pictures, pixels, strict=True):
            picture = rule(_eight_bit(as_picture(image)), size.height, Image.Resampling(resample), image_mean)
            levels_XYC = np.asarray(picture)
            for channel, table in enumerate(tables):
                np.take(table, levels_XYC[..., channel], out=channels[channel], mode="clip")
        return BatchFeature({"pixel_values": torch.from_numpy(pixels)})


def as_picture(image: Any) -> Image.Image:
    """A Pillow image from one, from a path, or from uint8 numpy [H, W(, C)] or torch [C, H, W]."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str):
        try:
            return Image.open(image)
        except OSError as error:
            raise RequestError(
                f"{image!r} cannot be opened as an image ({error}); give a path to an image file"
            ) from None
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy().transpose(1, 2, 0) if image.ndim == 3 else image.cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise RequestError(f"an image of type {type(image).__name__}; expected a Pillow image, an array or a path")
    if image.dtype != np.uint8:
        raise RequestError(f"an image array of type {image.dtype}; expected uint8 from 0 to 255")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)):
        return Image.fromarray(image)
    raise RequestError(
        f"an image array of shape {list(image.shape)}; expected [H, W] or [H, W, 3] (numpy), [3, H, W] (torch)"
    )


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Sixteen-bit and float grey as ordinary grey; Pillow would clip them to white."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        wide = picture.mode != "I" or values.max(initial=0) > 255
        return Image.fromarray((values // 257 if wide else values).clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        return Image.fromarray(np.asarray(picture).clip(0, 255).astype(np.uint8))
    return picture


def scaled(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """`picture.resize`, the same under every version of Pillow.

    Pillow rounds between its two passes, so their order shows. Up to version 12 the horizontal one came first; since
    13, which the reference pixels were made with, the vertical one does where the height shrinks much more than the
    width.
    """
    width, height = picture.size
    if size[1] >= height or height - size[1] <= 2 * (width - size[0]) or picture.mode in ("1", "P", "PA"):
        return picture.resize(size, resample)
    blended = {"RGBA": "RGBa", "LA": "La"}.get(picture.mode, picture.mode)  # colours weigh by their alpha
    narrow = picture.convert(blended).resize((width, size[1]), resample).resize(size, resample)
    return narrow.convert(picture.mode)


def _square(picture: Image.Image, size: int, resample: Image.Resampling, mean: Any) -> Image.Image:
    return scaled(picture, (size, size), resample).convert("RGB")


def _crop(
    picture: Image.Image, size: int, resample: Image.Resampling, mean: Any, edge: int | None = None
) -> Image.Image:
    picture = picture.convert("RGB")
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    edge = edge or size
    resized = int(edge * long / short)
    if resized * edge > MAX_INTERMEDIATE_PIXELS:
        short = short * size / edge
        left, top = (width - short) / 2, (height - short) / 2
        return picture.resize((size, size), resample, box=(left, top, left + short, top + short))
    picture = scaled(picture, (edge, resized) if width <= height else (resized, edge), resample)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def _pad(picture: Image.Image, size: int, resample: Image.Resampling, mean: Any) -> Image.Image:
    picture = picture.convert("RGB")
    side = max(picture.size)
    if side * side > MAX_INTERMEDIATE_PIXELS:
        side = int(MAX_INTERMEDIATE_PIXELS**0.5)
        shrink = side / max(picture.size)
        width, height = (max(round(edge * shrink), 1) for edge in picture.size)
        picture = scaled(picture, (width, height), resample)
    canvas = Image.new("RGB", (side, side), tuple(int(value * 255) for value in mean))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return scaled(canvas, (size, size), resample)


def _resize(picture: Image.Image, size: int, resample: Image.Resampling, mean: Any) -> Image.Image:
    picture = picture.convert("RGB")
    side = max(picture.size)
    if side * side <= MAX_INTERMEDIATE_PIXELS:
        picture = scaled(picture, (side, side), Image.Resampling.BICUBIC)
    return scaled(picture, (size, size), resample)


_RULES = {"square": _square, "crop": _crop, "pad": _pad, "resize": _resize}


def _edge(size: Any) -> int:
    """The one number in a size, however it is written."""
    values = {value for value in size.values() if value is not None} if isinstance(size, Mapping) else {size}
    if len(values) != 1 or not isinstance(value := values.pop(), int):
        raise CheckpointError(f"preprocessor_config.json has the size {size!r}; expected one number, for a square")
    return value
