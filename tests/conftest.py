"""What all tests share: one thread a process, no network, and small owls built once a session."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OWL_CACHE", tempfile.mkdtemp(prefix="owl-cache-"))

import pytest
import torch
from PIL import Image, ImageDraw

import mplug_owl

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def owl() -> "mplug_owl.Owl":
    """A tiny owl2 with random weights; tests must leave it as it is."""
    return mplug_owl.load("tiny-owl2", device="cpu")


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    canvas = Image.new("RGB", (90, 60), "navy")
    ImageDraw.Draw(canvas).ellipse((10, 10, 50, 50), fill="orange")
    return canvas


@pytest.fixture(scope="session")
def picture_file(picture: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "picture.png"
    picture.save(path)
    return path
