"""What observing an answer tells, and that it changes nothing: on tiny owls of every family, and on built ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asking import request
from backbones import LANGUAGES, TOWERS, language_folder, shaken, tower_folder
from mplug_owl.engine.insight.attention import OVERHEARD, listening, overheard
from mplug_owl.engine.insight.observer import Asked, Observation, Observer
from mplug_owl.errors import RequestError
from mplug_owl.models.built import build
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.slots import CONNECTORS, PROJECTIONS, Slots
from owls import TINY, Row, Rows, batch, random_owl

every_family = pytest.mark.parametrize("family", TINY)
WAYS = [(), ("vision",), ("decoder",), ("vision", "decoder")]


def rows_of(owl: OwlForConditionalGeneration) -> list[Row]:
    rows = Rows(owl)
    return [rows.row(4, "image", 3), rows.row("image", 2, ("video", 3), 5, "image", 1), rows.row(9, ("video", 2), 6)]


def asked_of(owl: OwlForConditionalGeneration, row: Row, new: int = 4) -> Asked:
    """A row whose last ids are the answer."""
    made = request(owl, row)
    assert all(medium.end <= len(row.ids) - new for medium in made.media) or new == 1
    return Asked(row.ids[:-new], row.ids[-new:], made.media)


def some(owl: OwlForConditionalGeneration) -> list[Asked]:
    rows = rows_of(owl)
    return [asked_of(owl, rows[0], 3), asked_of(owl, rows[1], 1), asked_of(owl, rows[2])]


def check(seen: Observation, asked: Asked, layers: int) -> None:
    """What is true of whatever is observed."""
    frames = sum(1 if medium.kind == "image" else len(medium.pixels) for medium in asked.media)
    assert seen.maps_AFGG.shape[:2] == (len(asked.answer), frames)
    assert seen.shares_YAK.shape == (layers, len(asked.answer), 2 + len(asked.media))
    for maps in (seen.maps_AFGG, *seen.queries):
        assert (maps >= 0).all()
        torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones_like(maps[:, 0, 0, 0]), atol=1e-6, rtol=0)
    assert (seen.shares_YAK >= -1e-12).all()
    torch.testing.assert_close(seen.shares_YAK.sum(-1), torch.ones_like(seen.shares_YAK[..., 0]), atol=1e-6, rtol=0)


def apart(first: Observation, second: Observation) -> float:
    """The largest difference of anything that two observations tell."""
    pairs: list[tuple[Tensor, Tensor]] = [
        (first.logprobs_A, second.logprobs_A),
        (first.maps_AFGG, second.maps_AFGG),
        (first.shares_YAK, second.shares_YAK),
        *zip(first.queries, second.queries, strict=True),
    ]
    return max(float((a - b).abs().max()) for a, b in pairs)


@every_family
@pytest.mark.parametrize("rollout", WAYS, ids="-".join)
def test_maps_sum_to_one_and_a_batch_changes_none(family: str, rollout: tuple[str, ...]) -> None:
    owl = random_owl(family)
    observer, asked = Observer(owl, rollout=rollout), some(owl)
    together = observer.observe(asked)
    for each, seen in zip(asked, together, strict=True):
        check(seen, each, owl.config.get_text_config().num_hidden_layers)
        (alone,) = observer.observe([each])
        assert apart(seen, alone) < 1e-9


@every_family
def test_probabilities_are_those_of_the_model(family: str) -> None:
    owl, rows = random_owl(family), []
    rows = rows_of(owl)[:1]
    asked = asked_of(owl, rows[0], 3)
    (seen,) = Observer(owl).observe([asked])
    with torch.no_grad():
        logits = owl(**batch(rows)).logits[0, -4:-1]
    expected = logits.log_softmax(-1)[torch.arange(3), torch.tensor(list(asked.answer))]
    torch.testing.assert_close(seen.logprobs_A, expected, atol=1e-9, rtol=0)


@every_family
def test_observing_leaves_the_owl_as_it_is(family: str) -> None:
    owl = random_owl(family)
    inputs, asked = batch(rows_of(owl)), some(owl)
    ways = {part.config._attn_implementation for part in owl.modules() if hasattr(part, "config")}
    with torch.no_grad():
        before = owl(**inputs).logits
        observer = Observer(owl, rollout=("vision", "decoder"), lens=2)
        observer.observe(asked)
        assert torch.equal(owl(**inputs).logits, before)
    assert {part.config._attn_implementation for part in owl.modules() if hasattr(part, "config")} == ways
    assert OVERHEARD not in ways
    assert not any(module._forward_hooks for module in owl.modules())
    own = {weight.data_ptr() for weight in owl.parameters()}
    assert {weight.data_ptr() for weight in observer.model.parameters()} == own  # no second copy of the weights


def test_only_who_listens_hears() -> None:
    twin = overheard(random_owl("tiny-owl"))
    pixels = Rows(twin).pixels(2)
    heard: list[tuple[int, ...]] = []
    with torch.no_grad():
        twin.model.vision(pixels)
        with listening(lambda module, weights: heard.append(tuple(weights.shape))):
            twin.model.vision(pixels)
        twin.model.vision(pixels)
    assert heard == [(2, 4, 17, 17)] * 2


@every_family
def test_the_lens_ends_at_what_the_model_says(family: str) -> None:
    """Behind the last layer the nearest words are the model's own next words."""
    owl = random_owl(family)
    row = rows_of(owl)[0]
    asked = asked_of(owl, row, 3)
    (seen,) = Observer(owl, lens=5).observe([asked])
    assert seen.lens is not None
    ids, near = seen.lens
    assert ids.shape == near.shape == (owl.config.get_text_config().num_hidden_layers, owl.config.media_length, 5)
    with torch.no_grad():
        logits = owl(**batch([row])).logits[0, asked.media[0].start : asked.media[0].end]
    top = logits.softmax(-1).topk(5)
    assert torch.equal(ids[-1], top.indices)
    torch.testing.assert_close(near[-1], top.values, atol=1e-9, rtol=0)


def test_layers_choose_whose_attention_counts() -> None:
    owl = random_owl("tiny-owl2")
    asked = some(owl)[:1]
    (both,), (first,), (last,) = (Observer(owl, layers=layers).observe(asked) for layers in ((0, 1), (0,), (1,)))
    (usual,) = Observer(owl).observe(asked)
    assert apart(both, usual) < 1e-12
    assert (first.maps_AFGG - last.maps_AFGG).abs().max() > 1e-4
    torch.testing.assert_close(first.shares_YAK, last.shares_YAK)  # which tell every layer anyway


def test_what_cannot_be_looked_at_is_said() -> None:
    owl = random_owl("tiny-owl2")
    wrongs: list[tuple[Callable[[], object], str]] = [
        (lambda: Observer(owl, rollout=("eyes",)), "rollout through 'eyes'"),
        (lambda: Observer(owl, layers=(2,)), "layer 2 of a decoder of 2; expected 0 to 1"),
        (lambda: Observer(owl, layers=()), "no layers"),
        (lambda: Observer(owl, layers=(0,), rollout=("decoder",)), "leave layers out"),
        (lambda: Observer(owl, lens=-1), "lens=-1"),
        (lambda: Observer(owl).observe([Asked([1, 5], [6], [])]), "nothing was shown"),
        (lambda: Observer(owl).observe([some(owl)[0]._replace(answer=[])]), "the answer is empty"),
    ]
    for wrong, said in wrongs:
        with pytest.raises(RequestError, match=said):
            wrong()


# ---- owls from parts -----------------------------------------------------------------------------


def built(folder: Path, vision: str, connector: str, language: str, adaptive: bool) -> OwlForConditionalGeneration:
    tower_folder(vision, folder / vision)
    language_folder(language, folder / language)
    queries = None if connector in PROJECTIONS else 5
    slots = Slots(folder / vision, connector, folder / language, adaptive=adaptive, queries=queries)
    owl, _ = build(slots, dtype=torch.float64)
    shaken(owl.model.abstractor)
    return owl


@pytest.mark.parametrize("connector", CONNECTORS)
def test_every_connector_leads_back(connector: str, tmp_path: Path) -> None:
    owl = built(tmp_path, "clip", connector, "llama", False)
    asked = some(owl)
    for rollout in ((), ("vision", "decoder")):
        for each, seen in zip(asked, Observer(owl, rollout=rollout).observe(asked), strict=True):
            check(seen, each, 3)
            assert len(seen.queries) == (0 if connector in PROJECTIONS else len(each.media))
            positions = 16 if connector in PROJECTIONS else 5
            stills = [1 if medium.kind == "image" else len(medium.pixels) for medium in each.media]
            assert [len(places) for places in seen.places] == [positions * count for count in stills]


@pytest.mark.parametrize("vision", [pytest.param(kind, marks=pytest.mark.slow) for kind in TOWERS if kind != "clip"])
def test_every_tower_leads_back(vision: str, tmp_path: Path) -> None:
    owl = built(tmp_path, vision, "abstractor", "llama", True)
    asked = some(owl)
    together = Observer(owl, rollout=("vision",)).observe(asked)
    for each, seen in zip(asked, together, strict=True):
        check(seen, each, 3)
        assert seen.maps_AFGG.shape[-2:] == (owl.config.vision_config.grid,) * 2
        (alone,) = Observer(owl, rollout=("vision",)).observe([each])
        assert apart(seen, alone) < 1e-5  # norms of library towers are in float32


@pytest.mark.parametrize("language", [pytest.param(k, marks=pytest.mark.slow) for k in LANGUAGES if k != "llama"])
def test_every_decoder_is_overheard(language: str, tmp_path: Path) -> None:
    owl = built(tmp_path, "clip", "abstractor", language, language != "opt")
    asked = some(owl)
    for each, seen in zip(asked, Observer(owl, lens=2).observe(asked), strict=True):
        check(seen, each, 3)


def test_a_patch_that_is_a_position_is_its_own(tmp_path: Path) -> None:
    """Through a linear connector the map is the decoder's attention to the patches, and nothing else."""
    owl = built(tmp_path, "clip", "linear", "llama", False)
    asked = some(owl)[0]
    observer = Observer(owl, layers=(1,))
    (seen,) = observer.observe([asked])
    heard: list[Tensor] = []
    ids = torch.tensor([[*asked.ids, *asked.answer[:-1]]])
    with torch.no_grad(), listening(lambda module, weights: heard.append(weights)):
        observer.model(input_ids=ids, pixel_values=asked.media[0].pixels[None], use_cache=False)
    (medium,) = asked.media
    looks = heard[-2][0].mean(0)[-len(asked.answer) :, medium.start : medium.end]  # the middle one of three layers
    expected = (looks / looks.sum(-1, keepdim=True)).unflatten(-1, (1, 4, 4))
    torch.testing.assert_close(seen.maps_AFGG, expected, atol=1e-12, rtol=0)
