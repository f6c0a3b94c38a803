"""The pointing game, played by owls of which it is known where they look, and the scenes it is played on."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import LlamaConfig

import mplug_owl
from mplug_owl import EvalError, ImagePart, Message, Owl, RequestError, TextPart
from mplug_owl.cli import main
from mplug_owl.eval.pointing import Pointed, Target, colour_targets, figures, patches_in, play, top_patches, without
from mplug_owl.models.connectors import OwlProjectorConfig
from mplug_owl.models.families import family, make_processor
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.tokenizers import byte_tokenizer
from mplug_owl.models.vision import OwlVisionConfig
from mplug_owl.world.shape_art import COLOURS

WIDTH, GRID, SIDE = 16, 12, 96
LIGHT, STEADY, ASKS, SAYS = 0, 2, 4, 6
"""Directions that mean how bright a patch is, that there is a patch, that a row is text, what was read."""


def owl_that_looks_at_what_is_bright(sight: float) -> Owl:
    """It attends to patches by how bright they are, `sight` times as much, and the brighter the surer it says "R".

    Each patch keeps its position, which tells its brightness. Rotation cannot be felt: queries and keys meet in the
    direction that turns least.
    """
    config = OwlConfig(
        vision_config=OwlVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=SIDE,
            patch_size=SIDE // GRID,
            use_cls_token=False,
            use_post_layernorm=False,
            position_rows=GRID**2,
        ),
        abstractor_config=OwlProjectorConfig(input_size=WIDTH, output_size=WIDTH, num_tokens=GRID**2, bias=False),
        text_config=LlamaConfig(
            vocab_size=259,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e16},
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        ),
    )
    model = OwlForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        eyes, layer = model.model.vision.embeddings, model.model.language_model.layers[0]
        pixels = 3 * (SIDE // GRID) ** 2
        for place, sign in ((LIGHT, 1.0), (LIGHT + 1, -1.0)):
            eyes.patch_embed.weight[place] = sign / pixels
        eyes.position_embedding[:, STEADY], eyes.position_embedding[:, STEADY + 1] = 1.0, -1.0
        model.model.abstractor.layers[0].weight.copy_(torch.eye(WIDTH))
        model.model.language_model.embed_tokens.weight[:, ASKS] = 1.0
        layer.self_attn.q_proj.weight[WIDTH // 2 - 1, ASKS] = sight
        layer.self_attn.k_proj.weight[WIDTH // 2 - 1, LIGHT] = 1.0
        layer.self_attn.k_proj.weight[WIDTH // 2 - 1, STEADY] = 3.0  # the darkest patch is still no text
        layer.self_attn.v_proj.weight[SAYS, LIGHT] = 1.0
        layer.self_attn.o_proj.weight.copy_(torch.eye(WIDTH))
        tokenizer = byte_tokenizer()
        (said,) = tokenizer("R", add_special_tokens=False)["input_ids"]
        model.lm_head.weight[said, SAYS] = 1.0
        model.lm_head.weight[said, ASKS] = 4.0  # in the dark too, it is a little likelier than all else
    model.generation_config.eos_token_id = None
    return Owl(model, make_processor(config, tokenizer, "owl", "square"))


def bright_squares(count: int) -> list[Target]:
    """Dark pictures with one bright square each, never in the middle."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for _ in range(count):
        column, row = (int(n) for n in torch.randint(0, 4, (2,), generator=generator))
        left, top = (column if column < 2 else column + 6) / GRID, row * 3 / GRID
        box = (left, top, left + 2 / GRID, top + 2 / GRID)
        picture = Image.new("RGB", (SIDE, SIDE), (20, 20, 20))
        corners = [share * SIDE for share in box]
        ImageDraw.Draw(picture).rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), fill="white")
        found.append(Target((Message("user", (ImagePart(picture), TextPart("Where?"))),), box, ("R" * 12,)))
    return found


@pytest.fixture(scope="module")
def seeing() -> list[Pointed]:
    return play(owl_that_looks_at_what_is_bright(30.0).desk, bright_squares(24))


def test_who_looks_at_it_points_at_it(seeing: list[Pointed]) -> None:
    assert all(each.hit and each.right and each.mass > 0.99 for each in seeing)
    assert not any(each.centre for each in seeing)
    assert all(each.area == pytest.approx(4 / GRID**2) for each in seeing)
    assert 0 < sum(each.other for each in seeing) < 12  # some squares are where the next one is
    found = {figure.name: figure for figure in figures(seeing)}
    assert found["peaks on the thing"].value == 1.0 and found["peaks on the thing"].interval.low > 0.85
    assert found["peaks, times chance"].value == pytest.approx(36) and found["peaks over the centre"].interval.low > 0


def test_what_it_looks_at_is_what_its_answer_needs(seeing: list[Pointed]) -> None:
    assert all(each.masked < each.probability - 0.5 for each in seeing)
    assert all(abs(each.randomly - each.probability) < 0.05 for each in seeing)
    found = {figure.name: figure for figure in figures(seeing)}
    assert found["top over random"].interval.low > 0.1
    assert found["probability lost: top patches"].value > 3 * found["probability lost: random"].value


def test_who_looks_nowhere_points_at_nothing() -> None:
    """Without sight every patch counts alike, so the peak is wherever it happens to be, the same in all pictures."""
    blind = play(owl_that_looks_at_what_is_bright(0.0).desk, bright_squares(24))
    assert all(each.mass == pytest.approx(each.area, rel=1e-4) for each in blind)
    assert all(each.hit == each.other for each in blind)
    found = {figure.name: figure for figure in figures(blind)}
    assert found["peaks on the thing"].value < 0.3 and abs(found["peaks over another's"].value) < 1e-9


def test_carrying_attention_further_still_leads_there() -> None:
    """Through layers that pass on only what they have, rollout finds the same patch."""
    owl = owl_that_looks_at_what_is_bright(30.0)
    assert all(each.hit for each in play(owl.desk, bright_squares(4), rollout=("vision", "decoder")))


# ---- scenes --------------------------------------------------------------------------------------


def test_the_box_is_where_the_thing_is() -> None:
    """Its middle has the colour that is the answer, wherever the shape covers its own middle."""
    seen = 0
    for target in colour_targets(40):
        (message,) = target.messages
        part, asked = message.content
        assert isinstance(part, ImagePart) and isinstance(asked, TextPart)
        assert "colour" in asked.text.lower() and not any(colour in asked.text for colour in COLOURS)
        left, top, right, bottom = target.box
        assert 0.1 < right - left < 0.35 and right - left == pytest.approx(bottom - top)
        if any(shape in asked.text for shape in ("ring", "moon")):
            continue
        picture = part.source.picture()
        spot = picture.getpixel((int((left + right) / 2 * picture.width), int((top + bottom) / 2 * picture.height)))
        apart = sum(abs(a - b) for a, b in zip(spot, COLOURS[target.accept[0]], strict=True))
        seen += apart < 90
    assert seen >= 25  # the others are rings and moons that are called things, or lie below another


def test_scenes_are_the_same_for_ever_and_differ() -> None:
    first, again = colour_targets(12), colour_targets(12)
    texts = [str(target.messages[0].content[0].source) + target.messages[0].text for target in first]
    assert texts == [str(target.messages[0].content[0].source) + target.messages[0].text for target in again]
    assert len(set(texts)) == 12 and [target.box for target in first] == [target.box for target in again]
    with pytest.raises(EvalError, match="expected 2 or more"):
        colour_targets(1)


def test_patches_of_a_box() -> None:
    assert patches_in((0.0, 0.0, 0.5, 0.5), 4).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert patches_in((0.55, 0.05, 0.65, 0.15), 4).nonzero().tolist() == [[0, 2]]  # smaller than any patch
    assert patches_in((0.9, 0.9, 1.1, 1.1), 2).nonzero().tolist() == [[1, 1]]


def test_masks_hide_patches_alone() -> None:
    owl, (target, _) = owl_that_looks_at_what_is_bright(1.0), bright_squares(2)
    asked = owl.look(list(target.messages), max_new_tokens=3).asked
    heat = torch.arange(GRID**2, dtype=torch.float32).flip(0)
    mask = top_patches(heat, 5)
    assert mask.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    before, after = asked.media[0].pixels, without(asked, mask, GRID).media[0].pixels
    assert before is not None and after is not None
    patch = SIDE // GRID
    assert torch.equal(before[:, patch:], after[:, patch:])
    assert torch.equal(before[:, :patch, 5 * patch :], after[:, :patch, 5 * patch :])
    mean = before.mean((1, 2))[:, None, None].expand(-1, patch, 5 * patch)
    assert torch.equal(after[:, :patch, : 5 * patch], mean)


@pytest.mark.slow
@pytest.mark.skipif(not family("owlet").is_trained, reason="the owlet has no weights")
def test_the_owlet_looks_at_what_it_is_asked_about() -> None:
    """At three times chance or better, more than the middle of pictures would, and its answers need what it sees."""
    pointed = play(mplug_owl.load("owlet", device="cpu").desk, colour_targets(150))
    found = {figure.name: figure.value for figure in figures(pointed)}
    assert found["peaks, times chance"] >= 3
    assert found["peaks over the centre"] > 0 and found["peaks over another's"] > 0
    assert found["top over random"] > 0


def test_who_says_nothing_points_at_nothing() -> None:
    owl = owl_that_looks_at_what_is_bright(30.0)
    with torch.no_grad():
        owl.model.lm_head.weight.zero_()  # then id 0 comes first, which has no text
    silent = play(owl.desk, bright_squares(3))
    assert not any(each.hit or each.other or each.right or each.mass for each in silent)
    with pytest.raises(RequestError, match="has no words"):
        owl.look("Where?", images=[Image.new("RGB", (SIDE, SIDE))], max_new_tokens=3)


# ---- figures and the command ---------------------------------------------------------------------


def test_pictures_that_are_cut_are_refused() -> None:
    owl = owl_that_looks_at_what_is_bright(1.0)
    owl.processor.image_processor.aspect = "crop"
    wide = Image.new("RGB", (SIDE, SIDE // 2))
    targets = [Target((Message("user", (ImagePart(wide), TextPart("Where?"))),), (0, 0, 1, 1))] * 2
    with pytest.raises(EvalError, match="does not crop"):
        play(owl.desk, targets)


def test_the_command_plays_and_keeps_the_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pointing.json"
    assert main(["look", "--pointing", "6", "--model", "owlet-nano", "--device", "cpu", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "6 scenes" in said and "peaks, times chance" in said
    read = json.loads(out.read_text(encoding="utf-8"))
    assert len(read["scenes"]) == 6 and {figure["name"] for figure in read["figures"]} >= {"peaks on the thing"}
    again = figures([Pointed(**scene) for scene in read["scenes"]])
    assert [figure["value"] for figure in read["figures"]] == [figure.value for figure in again]
    assert all(f"{figure.name}" in said for figure in again)


def test_random_masks_repeat_with_the_seed() -> None:
    desk, targets = owl_that_looks_at_what_is_bright(2.0).desk, bright_squares(3)
    first, again, other = (play(desk, targets, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [each.randomly for each in first] != [each.randomly for each in other]
