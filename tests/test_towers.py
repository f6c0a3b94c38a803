"""Vision towers from elsewhere: their tokens are the library's, their pictures those of their own image processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedModel
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

import mplug_owl.models  # noqa: F401 - registers the Auto classes
from backbones import PATCH, RULES, SIDE, TOWERS, made, tower_folder
from mplug_owl.errors import CheckpointError, ConfigError, RequestError
from mplug_owl.models.built import complete, picture_rule
from mplug_owl.models.image_processor import OwlImageProcessorPil
from mplug_owl.models.slots import Slots, image_rule, vision_config
from mplug_owl.models.towers import OwlTower, OwlTowerConfig, tower

NO_CLS = ("siglip", "siglip2")
every = pytest.mark.parametrize("kind", TOWERS)


def pixels(side: int = SIDE, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(1))


def as_owl(plain: PreTrainedModel, **settings: Any) -> OwlTower:
    """That tower as f_V."""
    settings = {"use_cls_token": False, "image_size": SIDE, **settings}
    own = OwlTower(OwlTowerConfig(tower_config=plain.config.to_dict(), **settings)).eval()
    wanted = own.tower.state_dict()
    found = plain.state_dict()
    own.tower.load_state_dict({name: found[name] for name in wanted})
    return own


@torch.no_grad()
def theirs(plain: PreTrainedModel, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens behind the last norm and in front of the last layer, as the library gives them."""
    if plain.config.model_type == "siglip2_vision_model":
        grid = seen.shape[-1] // PATCH
        # [F, C, gy, y, gx, x] -> [F, gy gx, y x C]
        cut = seen.unflatten(3, (grid, PATCH)).unflatten(2, (grid, PATCH)).permute(0, 2, 4, 3, 5, 1)
        given = {
            "pixel_values": cut.flatten(3).flatten(1, 2),
            "pixel_attention_mask": torch.ones(len(seen), grid**2),
            "spatial_shapes": torch.tensor([[grid, grid]] * len(seen)),
        }
    else:
        given = {"pixel_values": seen}
    out = plain(**given, output_hidden_states=True)
    last = out.last_hidden_state
    if plain.config.model_type == "clip_vision_model":  # whose own norm is for the pooled token alone
        last = plain.post_layernorm(last)
    return last, out.hidden_states[-2]


@every
def test_its_tokens_are_the_librarys(kind: str) -> None:
    plain = made(kind)
    last, penultimate = theirs(plain, pixels())
    for features, tokens in (("last", last), ("penultimate", penultimate)):
        own = as_owl(plain, features=features)
        with torch.no_grad():
            patches = own(pixels()).last_hidden_state
        torch.testing.assert_close(patches, tokens[:, -16:], atol=1e-5, rtol=1e-5)
        assert own.config.num_tokens == 16 and own.config.grid == 4
        assert own.config.num_hidden_layers == (3 if features == "last" else 2)
        if kind not in NO_CLS:
            with torch.no_grad():
                seen = as_owl(plain, features=features, use_cls_token=True)(pixels()).last_hidden_state
            assert seen.shape[1] == 17
            torch.testing.assert_close(seen[:, :1], tokens[:, :1], atol=1e-5, rtol=1e-5)
            assert torch.equal(seen[:, 1:], patches)


def test_what_nobody_reads_is_not_kept() -> None:
    whole, short = (as_owl(made("clip"), features=features) for features in ("last", "penultimate"))
    names = {name for name, _ in short.named_parameters()}
    assert not any("layers.2." in name or "post_layernorm" in name for name in names)
    assert whole.num_parameters() > short.num_parameters()
    assert not any("head" in name for name, _ in as_owl(made("siglip")).named_parameters())
    assert not any("mask_token" in name for name, _ in as_owl(made("dinov2")).named_parameters())


@every
def test_larger_pictures_have_resampled_positions(kind: str) -> None:
    side = SIDE + 2 * PATCH
    plain = made(kind)
    own = as_owl(plain, image_size=side)
    with torch.no_grad():
        patches = own(pixels(side)).last_hidden_state
        if kind in ("clip", "siglip", "blip2"):
            out = plain(pixels(side), interpolate_pos_encoding=True).last_hidden_state
            last = plain.post_layernorm(out) if kind == "clip" else out
        else:
            last = theirs(plain, pixels(side))[0]
    assert own.config.num_tokens == 36
    torch.testing.assert_close(patches, last[:, -36:], atol=1e-5, rtol=1e-5)


@every
def test_training_looks_as_inference_does(kind: str) -> None:
    own = as_owl(made(kind))
    with torch.no_grad():
        resting = own(pixels()).last_hidden_state
        training = own.train()(pixels()).last_hidden_state
    torch.testing.assert_close(training, resting, atol=0, rtol=0)


def test_siglip_2_cuts_patches_as_its_image_processor_does() -> None:
    picture = Image.effect_mandelbrot((SIDE, SIDE), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    plain = made("siglip2")
    cut = Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16)([picture], return_tensors="pt")
    whole = OwlImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with torch.no_grad():
        expected = plain(**cut).last_hidden_state
        found = as_owl(plain)(whole([picture])["pixel_values"]).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every
def test_a_folder_gives_its_weights_and_saves_them_again(kind: str, tmp_path: Path) -> None:
    folder = tower_folder(kind, tmp_path / "tower")
    slots = Slots(folder, "linear", "unused", cls=False)
    config = vision_config(slots)
    row = tower(config.tower_config.model_type)
    found = complete(row.model.__base__, folder, config=config.tower_config).state_dict()
    own = OwlTower(config).eval()
    own.tower.load_state_dict({name: found[name] for name in own.tower.state_dict()})
    plain = made(kind)
    torch.testing.assert_close(own(pixels()).last_hidden_state, as_owl(plain, features="penultimate")(pixels())[0])
    own.save_pretrained(tmp_path / "own")
    again = AutoModel.from_pretrained(tmp_path / "own")
    assert type(again) is OwlTower
    for name, weight in own.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_half_of_a_clip_is_found(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    whole = CLIPModel(CLIPConfig(vision_config=made("clip").config.to_dict(), text_config=text))
    whole.save_pretrained(tmp_path)
    config = vision_config(Slots(tmp_path, "abstractor", "unused"))
    assert (config.num_tokens, config.features, config.use_cls_token) == (17, "last", True)
    half = complete(tower("clip_vision_model").model.__base__, tmp_path, config=config.tower_config)
    for name, weight in half.state_dict().items():
        assert torch.equal(weight, whole.vision_model.state_dict()[name]), name


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("size", [(90, 60), (40, 130), (SIDE, SIDE)])
def test_pictures_are_made_as_its_own_image_processor_makes_them(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    folder = tower_folder(kind, tmp_path)
    config = vision_config(Slots(folder, "abstractor", "unused"))
    assert config.image_size == SIDE
    noise = np.random.default_rng(3).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    ours = picture_rule(folder, config)([picture])["pixel_values"]
    theirs = RULES[kind]()([picture], return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (1, 3, SIDE, SIDE)
    # Both round to bytes between the two passes of a resize.
    assert (ours - theirs).abs().max() < 2.1 / 255 / min(RULES[kind]().image_std)
    assert (ours - theirs).abs().mean() < 0.3 / 255 / min(RULES[kind]().image_std)


def test_another_size_scales_the_crop(tmp_path: Path) -> None:
    folder = tower_folder("dinov2", tmp_path)
    config = vision_config(Slots(folder, "abstractor", "unused", image_size=2 * SIDE))
    rule = picture_rule(folder, config)
    assert (rule.size["height"], rule.edge, rule.aspect) == (2 * SIDE, 2 * SIDE + 16, "crop")
    rule.save_pretrained(tmp_path / "rule")
    assert OwlImageProcessorPil.from_pretrained(tmp_path / "rule").edge == 2 * SIDE + 16
    assert vision_config(Slots(folder, "abstractor", "unused")).image_size == SIDE  # not the 70 it was trained with


def test_without_a_rule_the_colours_are_those_of_the_kind(tmp_path: Path) -> None:
    folder = tower_folder("dinov3", tmp_path)
    assert image_rule(folder) == {}
    rule = picture_rule(folder, vision_config(Slots(folder, "abstractor", "unused")))
    assert rule.image_mean[0] == 0.485 and rule.size["height"] == SIDE and rule.aspect == "square"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    plain = made("siglip").config.to_dict()
    for wrong, said in (
        ({"features": "first"}, "features='first'; known: last, penultimate"),
        ({"tower_config": plain, "use_cls_token": True}, "has no cls token"),
        ({"image_size": 60}, "image_size=60 is not a multiple of patch_size=32"),
        ({"tower_config": {"model_type": "resnet"}}, "'resnet' has no place in an owl"),
    ):
        with pytest.raises(ConfigError, match=said):
            OwlTowerConfig(**wrong)
    with pytest.raises(RequestError, match=r"takes \[images, 3, 56, 56\]"):
        as_owl(made("clip"))(pixels(70))
    with pytest.raises(CheckpointError, match="do_normalize=false"):
        OwlImageProcessorPil.from_tower_config({"do_normalize": False})
    with pytest.raises(CheckpointError, match="no squares"):
        OwlImageProcessorPil.from_tower_config({"size": {"shortest_edge": 56}, "do_center_crop": False})
    folder = tower_folder("clip", tmp_path / "holed")
    holed = {k: v for k, v in made("clip").state_dict().items() if "layers.1.mlp.fc1.weight" not in k}
    made("clip").save_pretrained(folder, state_dict=holed)
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.1\.mlp\.fc1\.weight"):
        complete(tower("clip_vision_model").model.__base__, folder)


def test_defaults_build_a_clip() -> None:
    assert OwlTowerConfig().tower_config.to_dict() == CLIPVisionConfig().to_dict()
