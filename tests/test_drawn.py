"""The drawn world as data: sources, doctor, loader and JSON see rows whose pictures are drawn when looked at."""

import base64
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mplug_owl.data.doctor import examine
from mplug_owl.data.loader import Loader, LoaderSettings
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.pixels import load_scaled
from mplug_owl.data.sources import Source, open_source
from mplug_owl.errors import ConfigError, DataError
from mplug_owl.media import Limits, load_image, load_video
from mplug_owl.messages import VideoPart, from_openai, media, to_openai
from mplug_owl.models.families import build
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.world.scene import SIDE, Drawing, make

NAMES = ["captions", "questions/shapes@easy", "questions/video+pair", "described", "text", "prose"]


@pytest.fixture(scope="module")
def processor() -> OwlProcessor:
    return build("tiny-owl2")[1]


def drawn(source: Source) -> list[str]:
    return [source[row].messages[-1].text for row in range(5)]


def test_a_set_is_a_source() -> None:
    source = open_source("world:questions/shapes@easy#dev:50")
    assert (len(source), source.format, source.name) == (50, "world", "world:questions/shapes@easy#dev")
    talk = source[3]
    assert talk.id == "world:questions/shapes@easy#dev:3"
    assert talk.origin == source.origin(3) == "world:questions/shapes@easy#dev:4"
    assert source.shows_media().all() and not open_source("world:text").shows_media().any()
    again = pickle.loads(pickle.dumps(source))
    assert drawn(again) == drawn(source) and again.identity == source.identity
    with pytest.raises(IndexError):
        source[50]


def test_what_does_not_fit_the_world() -> None:
    with pytest.raises(ConfigError, match="did you mean 'captions'"):
        open_source("world:caption")
    with pytest.raises(ConfigError, match="leave both out"):
        open_source("world:captions", "llava")
    with pytest.raises(ConfigError, match="leave both out"):
        open_source("world:captions", image_root=".")


def test_a_picture_is_drawn_when_it_is_looked_at() -> None:
    drawing = Drawing(make("shapes", 1))
    picture = load_image(drawing)
    assert picture.size == (SIDE, SIDE) and picture.tobytes() == drawing.picture().tobytes()
    assert load_scaled(drawing, lambda size: size)[1] == (SIDE, SIDE)
    with pytest.raises(DataError, match="96x96 pixels"):
        load_image(drawing, Limits(max_pixels=100))
    large = load_image(Drawing(make("shapes", 1), side=384))
    assert large.size == (384, 384)


def test_every_frame_of_a_drawn_video_is_seen_once() -> None:
    [part] = make("video", 4).parts()
    assert isinstance(part, VideoPart)
    frames = load_video(part.source, part.num_frames or 0)
    assert [frame.tobytes() for frame in frames] == [frame.tobytes() for frame in make("video", 4).draw()]


def test_drawings_as_json() -> None:
    talk = open_source("world:questions/video+pair")[0]
    again = from_openai(to_openai(talk.messages))
    for before, after in zip(media(talk.messages), media(again), strict=True):
        sources = [before.source, after.source]
        first, second = (source[-1] if isinstance(source, list) else source for source in sources)
        url = base64.b64decode(second.partition(",")[2])
        assert Image.open(io.BytesIO(url)).tobytes() == first.picture().tobytes()


@pytest.mark.parametrize("decode", [True, False])
def test_the_doctor_finds_nothing(processor: OwlProcessor, decode: bool) -> None:
    sources = [open_source(f"world:{name}") for name in NAMES]
    report = examine(sources, processor, rows=20, decode=decode)
    assert report.status == 0 and report.verdict == "all 120 rows examined can be used", str(report)
    assert len(report.samples) == 6


def test_the_doctor_looks_at_some_rows_of_a_million() -> None:
    report = examine([open_source("world:text")])
    assert (report.tallies[0].rows, report.tallies[0].examined) == (1_000_000, 1_000)
    assert examine([open_source("world:text:70")]).tallies[0].examined == 70


def test_a_mixture_of_the_world_is_loaded_alike_by_workers(processor: OwlProcessor) -> None:
    sources = [open_source(f"world:{name}") for name in NAMES]
    settings = {"batch": 12, "micro": 4, "max_length": 1024, "images_per_row": 12}
    steps = []
    for workers in (0, 2):
        mixture = Mixture(sources, [1] * len(sources), seed=3, multimodal_share=0.5, window=12)
        loader = Loader(mixture, processor, LoaderSettings(**settings, workers=workers), seed=3)
        steps.append([batch for step in (5, 6) for batch in loader.step(step)])
        assert not loader.bad
        loader.close()
    for one, two in zip(*steps, strict=True):
        assert one.ids == two.ids and one.targets == two.targets > 0
        assert torch.equal(one.input_ids, two.input_ids)
        for name in ("pixel_values", "pixel_values_videos"):
            ours, theirs = getattr(one, name), getattr(two, name)
            assert (ours is None) == (theirs is None)
            for a, b in zip(ours if ours is not None else (), theirs if theirs is not None else (), strict=True):
                assert torch.equal(a, b)


def test_shares_of_media_are_kept(processor: OwlProcessor) -> None:
    sources = [open_source(f"world:{name}") for name in ("captions", "text")]
    mixture = Mixture(sources, seed=1, multimodal_share=0.75, window=8)
    shown = [bool(media(mixture[k].messages)) for k in range(80)]
    assert np.mean(shown) == 0.75
