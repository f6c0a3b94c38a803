"""`models.load`: native folders, families, devices and dtypes, and refusals in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mplug_owl import models
from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.families import FAMILIES, build
from mplug_owl.models.published import convert
from owls import TINY
from published_folders import write_json, write_published


@pytest.fixture
def native(tmp_path: Path) -> Path:
    model, processor = build("tiny-owl2")
    model.save_pretrained(tmp_path / "native")
    processor.save_pretrained(tmp_path / "native")
    return tmp_path / "native"


@pytest.mark.parametrize("family", TINY)
def test_families_are_built_the_same_every_time(family: str) -> None:
    state = torch.random.get_rng_state()
    one, _ = models.load(family, device="cpu")
    two, processor = build(family)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build(family, seed=1)[0]
    assert not torch.equal(other.lm_head.weight, one.lm_head.weight)
    assert processor.image_token_id == one.config.image_token_id == one.config.text_config.vocab_size
    assert processor.media_length == one.config.media_length


def test_native_folder_round_trip(native: Path) -> None:
    model, processor = models.load(native, device="cpu")
    built, _ = build("tiny-owl2")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), built.parameters(), strict=True))
    assert processor.image_token_id == built.config.image_token_id
    assert not model.training


@pytest.mark.parametrize(("asked", "got"), [("auto", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_dtype_of_a_native_folder(native: Path, asked: str, got: str) -> None:
    assert models.load(native, device="cpu", dtype=asked)[0].dtype == getattr(torch, got)


def test_float16_becomes_bfloat16_on_a_cpu_unless_told(tmp_path: Path) -> None:
    write_published(tmp_path / "half", "tiny-owl", dtype=torch.float16)
    assert models.load(tmp_path / "half", device="cpu")[0].dtype == torch.bfloat16
    assert models.load(tmp_path / "half", device="cpu", dtype="float16")[0].dtype == torch.float16


def test_names_that_are_nothing() -> None:
    with pytest.raises(ConfigError, match=r"'tiny-owl3' is neither.*did you mean 'tiny-owl"):
        models.load("tiny-owl3")
    with pytest.raises(CheckpointError, match=r"no local folder and could not be had from the hub"):
        models.load("nobody/nothing", local_files_only=True)
    with pytest.raises(ConfigError, match=r"unknown dtype 'float61'.*did you mean 'float16'"):
        models.load("tiny-owl", dtype="float61")
    with pytest.raises(ConfigError, match=r"unknown family 'owl-8b'.*did you mean"):
        build("owl-8b")
    with pytest.raises(ConfigError, match=r"without a tokenizer.*MAGAer13/mplug-owl-llama-7b"):
        models.load("owl-7b")


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda:77' cannot be used.*try 'auto'"):
        models.load("tiny-owl", device="cuda:77")
    with pytest.raises(ConfigError, match=r"device 'gpu' cannot be used"):
        models.load("tiny-owl", device="gpu")


def test_a_family_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'owl2-7b' is a family, not a checkpoint"):
        convert("owl2-7b", tmp_path / "out")


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llava"})
    with pytest.raises(CheckpointError, match=r"is no owl: model_type 'llava'"):
        models.load(tmp_path)


def test_native_folder_with_a_missing_tensor_is_refused(native: Path) -> None:
    tensors = load_file(native / "model.safetensors")
    del tensors["model.abstractor.vit_eos"]
    save_file(tensors, native / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) missing, first model\.abstractor"):
        models.load(native, device="cpu")


def test_native_folder_with_a_tensor_too_many_is_refused(native: Path) -> None:
    tensors = load_file(native / "model.safetensors") | {"model.surplus": torch.zeros(2)}
    save_file(tensors, native / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) unexpected, first model\.surplus"):
        models.load(native, device="cpu")


def test_native_folder_with_a_wrong_shape_is_refused(native: Path) -> None:
    tensors = load_file(native / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1].clone()
    save_file(tensors, native / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"another shape.*lm_head\.weight.*258.*259"):
        models.load(native, device="cpu")


def test_native_folder_cut_short_is_refused(native: Path) -> None:
    file = native / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.load(native, device="cpu")


def test_every_family_has_a_row_that_says_what_it_is() -> None:
    for name, row in FAMILIES.items():
        assert row.name == name and row.summary
        assert (row.repository is None) == name.startswith(("tiny-", "owlet"))
