"""Pixels and frame choices against vectors taken from the original processors.

The folder is OWL_GOLDEN_DIR/preprocess, by default beside the repository; its manifest says what
each tensor is and how exact it is stored.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mplug_owl.media import frame_indices, load_image
from mplug_owl.models.image_processor import OwlImageProcessorPil

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("OWL_GOLDEN_DIR", ROOT.parent / "shared" / "golden")) / "preprocess"
ASPECTS = {"owl": "square", "owl_video_image": "crop", "owl2.resize": "resize", "owl2.pad": "pad", "owl2.none": "crop"}
PNG_TOLERANCE, JPEG_TOLERANCE = 2e-3, 0.02  # as the manifest says

if not (GOLDEN / "manifest.json").is_file():
    pytest.skip(f"{GOLDEN} holds no preprocess vectors", allow_module_level=True)
MANIFEST: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "pixel_values.safetensors")


def processed(key: str) -> torch.Tensor:
    """`owl2.pad.448.gray.png` -> our pixel values of that picture under that rule."""
    rule, size, name = next(
        (rule, *key[len(rule) + 1 :].split(".", 1))
        for rule in sorted(ASPECTS, reverse=True)
        if key.startswith(rule + ".")
    )
    config = MANIFEST["processor_config"][size]
    processor = OwlImageProcessorPil.from_clip_config(config, ASPECTS[rule])
    return processor(load_image(GOLDEN / "images" / name))["pixel_values"][0]


@pytest.mark.parametrize("key", MANIFEST["tensors"])
def test_pixels(key: str, tensors: dict[str, torch.Tensor]) -> None:
    entry = MANIFEST["tensors"][key]
    pixels = processed(key)
    assert pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()
    if "intended_value_per_channel" in entry:
        constant = torch.tensor(entry["intended_value_per_channel"])[:, None, None]
        torch.testing.assert_close(pixels, constant.expand_as(pixels), atol=1e-5, rtol=0)
    if "full_shape" in entry:
        assert list(pixels.shape) == entry["full_shape"]
        tolerance = JPEG_TOLERANCE if key.endswith(".jpg") else PNG_TOLERANCE
        step = entry.get("subsample") or 1
        golden = tensors[key].float()
        torch.testing.assert_close(pixels[:, ::step, ::step], golden, atol=tolerance, rtol=0)
        assert pixels.mean().item() == pytest.approx(entry["mean"], abs=tolerance)
        assert pixels.std(correction=0).item() == pytest.approx(entry["std"], abs=tolerance)
    elif "intended_value_per_channel" not in entry:
        assert "removed" in entry, f"the manifest says nothing about {key}"


def test_every_stored_tensor_is_compared(tensors: dict[str, torch.Tensor]) -> None:
    described = {key for key, entry in MANIFEST["tensors"].items() if "full_shape" in entry}
    assert set(tensors) == described


@pytest.mark.parametrize("key", MANIFEST["frame_indices"])
def test_frame_indices(key: str) -> None:
    total, count = map(int, key.split("x"))
    assert frame_indices(total, count) == MANIFEST["frame_indices"][key]


def test_a_picture_three_pixels_high_is_not_mistaken_for_channels() -> None:
    """Upstream misread these; the right answer is the same picture, enlarged."""
    rows = np.zeros((3, 40, 3), np.uint8)
    rows[1] = 255
    for aspect in ("square", "crop", "resize"):
        processor = OwlImageProcessorPil(size=56, aspect=aspect)
        pixels = processor(Image.fromarray(rows))["pixel_values"][0]
        assert pixels.shape == (3, 56, 56)
        assert pixels[:, 28].mean() > pixels[:, 20].mean()
