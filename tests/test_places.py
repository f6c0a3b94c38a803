"""What is where in pictures: true of their pixels, told to the patches that show it, and learnt by f_V alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mplug_owl.data.encode import IGNORED
from mplug_owl.data.loader import Loader, LoaderSettings
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.places import PlaceBatch, place_words
from mplug_owl.data.sources import open_source
from mplug_owl.errors import ConfigError, DataError
from mplug_owl.models.families import FAMILIES, build, build_processor
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.train import recipe as recipes
from mplug_owl.train.objective import Objective, places_of_patches
from mplug_owl.train.opening import open_data
from mplug_owl.train.parallel import World
from mplug_owl.world.scene import PLACED, SIDE, Place, Scene, make
from mplug_owl.world.shape_art import COLOURS
from mplug_owl.world.sums import NUMERALS

ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = LoaderSettings(batch=8, micro=4, workers=0, learn="places")


def inside(scene: Scene, place: Place) -> np.ndarray:
    """The pixels of a place [N, 3]."""
    left, top, right, bottom = (max(0, round(edge * SIDE)) for edge in place.box)
    return np.asarray(scene.draw()[0], np.int16)[top : bottom + 1, left : right + 1].reshape(-1, 3)


@pytest.mark.parametrize("kind", PLACED)
def test_places_lie_in_the_picture_and_hold_something(kind: str) -> None:
    for number in range(40):
        scene = make(kind, number)
        assert scene.places
        for place in scene.places:
            left, top, right, bottom = place.box
            assert -0.05 < left < right < 1.05 and -0.05 < top < bottom < 1.05 and place.words
            shown = inside(scene, place)
            bare = np.abs(shown - np.array(scene.graph["look"]["background"])).max() < 30
            assert not bare or shown.std(0).max() > 8


@pytest.mark.parametrize("kind", ["shapes", "dice"])
def test_a_named_colour_is_there(kind: str) -> None:
    for number in range(40):
        scene = make(kind, number)
        for place in scene.places:
            (colour,) = (word for word in place.words if word in COLOURS)
            far = np.abs(inside(scene, place) - np.array(COLOURS[colour])).max(1)
            assert (far < 45).mean() > 0.05, (place, far.min())


def test_signs_are_spelt_by_their_places_and_clocks_told() -> None:
    for number in range(30):
        sign, clock = make("sign", number), make("clock", number)
        assert "".join(word for place in sign.places for word in place.words) == "".join(sign.graph["lines"])
        first = len(sign.graph["lines"][0])
        lefts = [place.box[0] for place in sign.places[:first]]
        assert lefts == sorted(lefts)
        short, long = (place.words for place in clock.places)
        assert (short, long) == ((NUMERALS[clock.graph["hour"]],), (str(clock.graph["minute"]),))
    straight = next(s for s in (make("clock", n) for n in range(200)) if s.graph["minute"] == 15)
    box, x = straight.places[1].box, straight.graph["look"]["x"]
    assert box[0] > x and box[2] - box[0] < 0.3  # a quarter past: to the right of the middle


def test_dominoes_tell_their_halves_apart() -> None:
    scene = next(s for s in (make("dice", n) for n in range(100)) if s.graph["form"] == "dominoes")
    first, second = scene.places[:2]
    assert [first.words[1], second.words[1]] == [str(value) for value in scene.graph["tiles"][0]]
    axis = 1 if scene.graph["upright"] else 0
    assert first.box[axis] < second.box[axis] and first.box[1 - axis] == pytest.approx(second.box[1 - axis])


def test_patches_belong_to_the_last_place_that_covers_them() -> None:
    boxes = torch.tensor([
        [[0.0, 0, 1, 1], [0.0, 0, 0.5, 0.5], [0.3, 0.3, 0.31, 0.31]],  # everywhere, a quarter, a speck on it
        [[0.0, 0, 1, 1], [0.5, 0, 1.0, 0.5], [-1.0, -1, -1, -1]],  # to the right is x; and one that is not there
    ])  # fmt: skip
    places = places_of_patches(boxes, 4).unflatten(1, (4, 4))
    assert places[0].tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert places[1].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def batches(rank: int = 0, world: int = 1, micro: int = 4) -> list[PlaceBatch]:
    source = open_source("world:places/shapes+dice#dev:16")
    settings = replace(SETTINGS, micro=micro)
    mixture = Mixture([source], None, seed=0, window=8)
    found = Loader(mixture, build_processor("owlet-nano"), settings, seed=0, rank=rank, world=world).step(0)
    assert all(isinstance(batch, PlaceBatch) for batch in found)
    return [batch for batch in found if isinstance(batch, PlaceBatch)]


@pytest.fixture(scope="module")
def owl() -> OwlForConditionalGeneration:
    return build("owlet-nano", seed=1)[0].double().eval()


def loss(owl: OwlForConditionalGeneration, batch: PlaceBatch) -> torch.Tensor:
    batch = batch.to("cpu", torch.float64)
    return Objective(owl)(batch.inputs, batch.labels, [1], 1)


def test_the_loss_names_each_patch_with_the_words_of_its_place(owl: OwlForConditionalGeneration) -> None:
    (batch,) = batches(micro=8)
    known = sorted({int(token) for token in batch.labels.flatten() if token != IGNORED})
    head, expected = owl.lm_head.weight, torch.zeros((), dtype=torch.float64)
    for index, pixels in enumerate(batch.pixel_values.double()):
        patches = owl.model.vision(pixels[None]).last_hidden_state[0, 1:]
        grid = round(len(patches) ** 0.5)
        for number, patch in enumerate(patches):
            x, y = (number % grid + 0.5) / grid, (number // grid + 0.5) / grid
            words: list[int] = []
            for (left, top, right, bottom), said in zip(batch.boxes[index].tolist(), batch.labels[index], strict=True):
                wide, high = max(right - left, 1 / grid), max(bottom - top, 1 / grid)
                if abs(x - (left + right) / 2) <= wide / 2 and abs(y - (top + bottom) / 2) <= high / 2:
                    words = [int(token) for token in said if token != IGNORED]
            shares = (head[known] @ patch).log_softmax(0)
            expected -= sum(shares[known.index(word)] for word in words) / len(words) / len(patches)
    torch.testing.assert_close(loss(owl, batch), expected, atol=1e-9, rtol=1e-9)


def test_only_the_eyes_learn_and_ranks_share_the_pictures(owl: OwlForConditionalGeneration) -> None:
    (whole,) = batches(micro=8)
    owl.zero_grad()
    loss(owl, whole).backward()
    touched = {name.split(".")[1] for name, p in owl.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert "vision" in touched and "abstractor" not in touched
    parts = [batch for rank in (0, 1) for batch in batches(rank, 2)]
    assert sorted(name for part in parts for name in part.ids) == sorted(whole.ids)
    assert sum(part.targets for part in parts) == whole.targets == 8


def test_a_rank_without_a_picture_has_a_loss_of_nothing(owl: OwlForConditionalGeneration) -> None:
    empty = PlaceBatch.of([], [], [])
    made = loss(owl, empty)
    assert made == 0 and made.requires_grad


def test_what_cannot_be_learnt_as_places() -> None:
    processor = build_processor("owlet-nano")
    with pytest.raises(DataError, match="world:places"):
        place_words(open_source("world:captions/shapes")[0], processor)
    with pytest.raises(ConfigError, match="unknown kind 'video'"):
        open_source("world:places/video")
    changes = ('data.sources=[{path="world:captions/shapes"}]', "data.workers=0", "init.start=none")
    recipe = recipes.load("owlet-nano-vision", changes)
    with pytest.raises(ConfigError, match="world:captions/shapes does not say what is where"):
        open_data(recipe, processor, ALONE, False)
    assert open_data(recipe, processor, ALONE, True) is not None  # its held-out rows are places
    config = FAMILIES["owlet-nano"].config()
    config.vision_config.hidden_size = config.abstractor_config.hidden_size = 64
    with pytest.raises(ConfigError, match="f_V is 64 wide and f_L 128"):
        Objective(OwlForConditionalGeneration(config))(batches()[0].inputs, batches()[0].labels, [1], 1)
