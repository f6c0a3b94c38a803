"""What `owl info` says about families and folders, against models that are really built."""

from pathlib import Path

import pytest
import torch

import mplug_owl
from mplug_owl import CheckpointError, ConfigError
from mplug_owl.models.families import FAMILIES, build
from mplug_owl.models.info import describe
from published_folders import write_published

TINY = [name for name in FAMILIES if name.startswith("tiny-")]


@pytest.mark.parametrize("name", TINY)
def test_families_are_counted_exactly(name: str) -> None:
    model, processor = build(name)
    card = describe(name)
    counts = {module.name: module.parameters for module in card.modules}
    assert card.parameters == sum(counts.values()) == model.num_parameters()
    assert counts["vision"] == model.model.vision.num_parameters()
    assert counts["abstractor"] == model.model.abstractor.num_parameters()
    assert card.memory["float32"] == 4 * card.parameters
    assert card.memory["bfloat16"] > card.memory["int8"] > card.parameters
    assert card.dtypes == {}
    assert card.prompt == processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}],
        add_generation_prompt=True,
    )


def test_what_a_video_becomes_is_what_the_processor_does() -> None:
    frames = describe("tiny-owl2")
    whole = describe("tiny-owl-video")
    assert frames.positions_per_frame == frames.positions_per_image
    assert whole.positions_per_frame is None
    assert "each sampled frame counts as an image" in str(frames)
    assert "however many frames" in str(whole)


@pytest.mark.parametrize(("name", "billions"), [("owl-7b", 7.2), ("owl2-7b", 8.2)])
def test_released_sizes_cost_no_memory(name: str, billions: float) -> None:
    card = describe(name)
    assert card.parameters / 1e9 == pytest.approx(billions, abs=0.1)
    assert "released as MAGAer13/" in card.origin


@pytest.mark.parametrize("name", ["tiny-owl", "tiny-owl2.1"])
def test_published_and_native_folders(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    model = write_published(folder, name, dtype=torch.bfloat16)
    card = describe(folder)
    assert card.origin.startswith("published")
    assert card.parameters == model.num_parameters()
    assert set(card.dtypes) == {"bfloat16"}
    assert card.report is not None
    assert card.report in str(card)

    owl = mplug_owl.load(folder, device="cpu")
    owl.model.save_pretrained(tmp_path / "native")
    owl.processor.save_pretrained(tmp_path / "native")
    native = describe(tmp_path / "native")
    assert native.origin == "native layout"
    assert native.report is None
    for same in ("parameters", "modules", "memory", "prompt", "templates", "positions_per_image"):
        assert getattr(native, same) == getattr(card, same)


def test_no_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_published(tmp_path / "published", "tiny-owl2")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("mplug_owl.models.owl.OwlForConditionalGeneration.from_pretrained", refuse)
    assert describe(tmp_path / "published").parameters > 0


def test_what_is_no_owl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny-owl2'"):
        describe("tiny-owl22")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        describe(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="no owl: model_type 'llama'"):
        describe(tmp_path)
