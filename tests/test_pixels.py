"""Media to pixel values: exact and fast decoding, random crops, and media that are broken."""

import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mplug_owl.data.pixels import Pixels, crop_box, load_scaled
from mplug_owl.errors import DataError
from mplug_owl.media import TarMember
from mplug_owl.messages import ImagePart, VideoPart
from mplug_owl.models.families import build
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import byte_tokenizer


def processor(aspect: str = "square", size: int = 224) -> OwlProcessor:
    return OwlProcessor.for_format(
        "owl",
        OwlImageProcessorPil(size={"height": size, "width": size}, aspect=aspect),
        byte_tokenizer(),
        image_token_id=259,
        media_length=9,
    )


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with the spectrum of a photograph: amplitude falls with frequency."""
    rng = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = 1
    shape = frequency.shape
    shared = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    planes = []
    for _ in range(3):
        own = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        plane = np.fft.irfft2((shared + 0.3 * own) / frequency**1.3, s=(height, width))
        planes.append((plane - plane.mean()) / plane.std() * 50 + 120)
    return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shots() -> list[bytes]:
    return [jpeg(photo(*size)) for size in [(640, 480), (1024, 768), (500, 900), (300, 260)]]


@pytest.mark.parametrize("aspect", ["square", "crop", "pad", "resize"])
def test_exact_pixels_are_those_of_the_processor(aspect: str, shots: list[bytes]) -> None:
    owl = processor(aspect)
    for shot in shots:
        plain = owl.image_processor([Image.open(io.BytesIO(shot))])["pixel_values"][0]
        assert torch.equal(Pixels(owl).load(ImagePart(shot), "k"), plain)


@pytest.mark.parametrize("aspect", ["square", "crop", "pad", "resize"])
def test_fast_pixels_are_close(aspect: str, shots: list[bytes]) -> None:
    owl = processor(aspect)
    deviation = torch.tensor(owl.image_processor.image_std)[:, None, None] * 255
    apart = []
    for shot in shots:
        exact = Pixels(owl).load(ImagePart(shot), "k")
        fast = Pixels(owl, decode="fast").load(ImagePart(shot), "k")
        apart.append(float(((exact - fast) * deviation).abs().mean()))
    assert max(apart) <= 2.0, apart
    assert max(apart) > 0.0


def test_only_jpegs_are_scaled_and_never_too_far(picture: Image.Image) -> None:
    shot = jpeg(photo(640, 480))
    for least, size in [((320, 240), (320, 240)), ((321, 10), (640, 480)), ((80, 60), (80, 60))]:
        small, before = load_scaled(shot, lambda _, least=least: least)
        assert (small.size, before) == (size, (640, 480))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert load_scaled(buffer.getvalue(), lambda _: (1, 1))[0].size == picture.size
    assert load_scaled(picture, lambda _: (1, 1)) == (picture, picture.size)


# ---- crops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (1000, 10), (3, 700), (224, 224)])
def test_crops_lie_in_the_picture_and_cover_their_share(size: tuple[int, int]) -> None:
    for seed in range(200):
        left, top, right, bottom = crop_box(size, (0.5, 1.0), Random(seed))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        share = (right - left) * (bottom - top) / (size[0] * size[1])
        assert min(size) < 100 or 0.49 < share <= 1.0
        assert crop_box(size, (0.5, 1.0), Random(seed)) == (left, top, right, bottom)


def test_a_crop_depends_on_its_key_alone(shots: list[bytes]) -> None:
    pixels = Pixels(processor("pad"), random_resized_crop=(0.5, 1.0))
    part = ImagePart(shots[0])
    first = pixels.load(part, "0:1:0")
    pixels.load(part, "0:2:0")
    assert torch.equal(pixels.load(part, "0:1:0"), first)
    assert not torch.equal(pixels.load(part, "0:2:0"), first)
    assert first.shape == (3, 224, 224)


def test_crops_are_never_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (200, 1))).convert("RGB")
    pixels = Pixels(processor(), random_resized_crop=(0.3, 1.0))
    for key in range(30):
        shown = pixels.load(ImagePart(ramp), str(key))
        assert shown[0, 0, -1] > shown[0, 0, 0]


def test_fast_and_exact_crops_agree(shots: list[bytes]) -> None:
    owl = processor()
    deviation = torch.tensor(owl.image_processor.image_std)[:, None, None] * 255
    for key in "abcdef":
        exact, fast = (Pixels(owl, decode, (0.5, 1.0)).load(ImagePart(shots[1]), key) for decode in ("exact", "fast"))
        assert ((exact - fast) * deviation).abs().mean() <= 3.0


def test_the_whole_picture_is_a_crop_of_all_of_it(shots: list[bytes]) -> None:
    square = jpeg(photo(256, 256))
    whole = Pixels(processor()).load(ImagePart(square), "k")
    for seed in range(100):
        if crop_box((256, 256), (1.0, 1.0), Random(str(seed))) == (0, 0, 256, 256):
            shown = Pixels(processor(), random_resized_crop=(1.0, 1.0))
            assert torch.equal(shown.load(ImagePart(square), str(seed)), whole)


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl-video"])
def test_videos(family: str) -> None:
    _, owl = build(family)
    frames = [photo(60, 40, seed) for seed in range(3)]
    part = VideoPart(frames, 2)
    side = owl.image_processor.size["height"]
    plain = Pixels(owl).load(part, "k")
    assert torch.equal(plain, owl.clip_pixels(frames[:2]))
    cropped = Pixels(owl, random_resized_crop=(0.3, 0.6)).load(part, "k")
    assert cropped.shape == plain.shape == (2, 3, side, side)
    assert not torch.equal(cropped, plain)


# ---- broken media --------------------------------------------------------------------------------


def png_bomb(side: int) -> bytes:
    """A small file that says it holds a huge square."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_broken_media_are_data_errors(decode: str, shots: list[bytes], tmp_path: Path) -> None:
    tar = tmp_path / "cut.tar"
    tar.write_bytes(shots[0][:1000])
    pixels = Pixels(processor(), decode=decode)
    for source, message in [
        (shots[0][: len(shots[0]) // 2], "damaged or cut short"),
        (b"no picture", "no image or video of a kind that can be read"),
        (png_bomb(9_200), "9200x9200 pixels"),
        (png_bomb(60_000), "3600000000 pixels"),
        (tmp_path / "gone.jpg", "is no file"),
        (TarMember(tar, 0, len(shots[0]), "a.jpg"), "the tar is cut short"),
        (TarMember(tmp_path / "gone.tar", 0, 9, "a.jpg"), "gone.tar' is no file"),
    ]:
        with pytest.raises(DataError, match=message):
            pixels.load(ImagePart(source), "k")
