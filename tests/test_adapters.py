"""Adapters: apart or merged they are the trained model, and only on the base they belong to."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mplug_owl.models as models
from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models import adapters
from mplug_owl.models.families import FAMILIES, make_processor
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.tokenizers import byte_tokenizer
from mplug_owl.settings import build as settle
from mplug_owl.train import lora, stages
from mplug_owl.train.recipe import Recipe
from owls import Rows, batch, random_owl

TARGETS = {
    "tiny-owl": ["q_proj", "v_proj"],
    "tiny-owl2": ["q_proj", "v_proj", "gate_proj"],
    "tiny-owl2.1": ["c_attn"],
    "tiny-owl-bloomz": ["query_key_value"],
}
ADAPTIVE = ("tiny-owl2", "tiny-owl2.1")


def recipe(family: str) -> Recipe:
    modules = ["abstractor", "lora", *(["visual"] if family in ADAPTIVE else [])]
    tree = {"name": "test", "stage": "instruct", "source": "here"}
    return settle(
        Recipe,
        tree
        | {
            "train": {module: {"lr": 1e-2} for module in modules},
            "lora": {"targets": TARGETS[family], "rank": 4, "alpha": 8, "dropout": 0.0},
            "compute": {"dtype": "float64"},
        },
    )


def logits(model: OwlForConditionalGeneration) -> Tensor:
    rows = Rows(model)
    with torch.no_grad():
        return model.eval()(**batch([rows.row(3, "image", 5), rows.row(8)])).logits


def tuned(family: str, folder: Path) -> tuple[Path, Path, Tensor]:
    """A base on disk, an adapter of it on disk, and what the trained model itself answers."""
    model = random_owl(family)
    row = FAMILIES[family]
    processor = make_processor(model.config, byte_tokenizer(), row.prompt, row.aspect)
    base = folder / "base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    known = adapters.identity(model, base)
    optimizer = torch.optim.SGD(stages.prepare(model, recipe(family)))
    inputs = batch([Rows(model).row(4, "image", 6)])
    for _ in range(2):
        model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    lora.save_adapter(model, folder / "adapter", recipe=recipe(family), processor=processor, base=known)
    return base, folder / "adapter", logits(model)


@pytest.fixture(scope="module")
def owl2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Tensor]:
    return tuned("tiny-owl2", tmp_path_factory.mktemp("owl2"))


@pytest.mark.parametrize("family", TARGETS)
def test_apart_and_merged_are_the_trained_model(family: str, tmp_path: Path) -> None:
    base, folder, trained = tuned(family, tmp_path)
    model, _ = models.load(base, device="cpu")
    plain = logits(model)
    adapters.apply_adapter(model, folder, name=base)
    assert (logits(model) - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), trained, atol=1e-9, rtol=1e-9)
    adapters.merge(folder, tmp_path / "merged")
    merged, processor = models.load(tmp_path / "merged", device="cpu")
    torch.testing.assert_close(logits(merged), trained, atol=1e-9, rtol=1e-9)
    assert not [n for n, _ in merged.named_parameters() if "lora" in n]
    assert processor.templates["training"]


def test_abstractor_and_visual_branch_come_with_the_adapter(owl2: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = owl2
    model, _ = models.load(base, device="cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    adapters.apply_adapter(model, folder, name=base)
    after = dict(model.named_parameters())
    changed = {stages.module_of(n) for n, w in before.items() if n in after and (after[n] != w).any()}
    assert changed == {"abstractor", "visual"}


def test_another_base_is_refused_by_both_names(owl2: tuple[Path, Path, Tensor], tmp_path: Path) -> None:
    base, folder, _ = owl2
    other = random_owl("tiny-owl2", seed=1)
    said = rf"trained on '{base}' \(config \w{{12}}, weights (\w{{12}})\), but the model is 'other'"
    with pytest.raises(CheckpointError, match=said):
        adapters.apply_adapter(other, folder, name="other")
    wider = FAMILIES["tiny-owl"].config()
    with pytest.raises(CheckpointError, match="was trained on"):
        adapters.apply_adapter(random_owl(wider), folder, name="other")


def test_an_identity_is_the_weights_not_their_dtype_or_place(owl2: tuple[Path, Path, Tensor]) -> None:
    base, _, _ = owl2
    found = [
        adapters.identity(models.load(base, device="cpu", dtype=dtype)[0], base)
        for dtype in ("auto", "float32", "bfloat16")
    ]
    assert found[0] == found[1] == found[2]
    model, _ = models.load(base, device="cpu")
    with torch.no_grad():
        model.model.abstractor.vit_eos[..., 0] += 1
    moved = adapters.identity(model, base)
    assert moved.content != found[0].content
    assert moved.config == found[0].config
    model.config.text_config.rms_norm_eps = 0.5
    assert adapters.identity(model, base).config != moved.config
    with torch.device("meta"):
        empty = OwlForConditionalGeneration(model.config)
    with pytest.raises(ConfigError, match="meta device"):
        adapters.identity(empty, base)


def test_a_base_in_bfloat16_takes_the_adapter_too(owl2: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = owl2
    model, _ = models.load(base, device="cpu", dtype="bfloat16")
    adapters.apply_adapter(model, folder, name=base)
    apart = logits(model).float()
    assert torch.isfinite(apart).all()
    assert adapters.fold(model).dtype == torch.bfloat16
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model, "peft_config")


def test_an_adapted_owl_generates(owl2: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = owl2
    model, _ = models.load(base, device="cpu")
    adapters.apply_adapter(model, folder, name=base)
    inputs = batch([Rows(model).row(3, "image", 5)])
    apart = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    merged = adapters.fold(model).generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(apart, merged)


def test_one_adapter_at_a_time(owl2: tuple[Path, Path, Tensor]) -> None:
    base, folder, _ = owl2
    model, _ = models.load(base, device="cpu")
    with pytest.raises(ConfigError, match="no LoRA to fold in"):
        adapters.fold(model)
    adapters.apply_adapter(model, folder, name=base)
    with pytest.raises(ConfigError, match="carries an adapter already"):
        adapters.apply_adapter(model, folder, name=base)


def test_merge_works_from_the_folder_alone(
    owl2: tuple[Path, Path, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, trained = owl2
    parser = argparse.ArgumentParser()
    adapters.add_arguments(parser)
    out = tmp_path / "out"
    assert adapters.run(parser.parse_args([str(folder), str(out)])) == 0
    assert f"written to {out}" in capsys.readouterr().out
    model, _ = models.load(out, device="cpu")
    torch.testing.assert_close(logits(model), trained, atol=1e-9, rtol=1e-9)
    with pytest.raises(ConfigError, match="not empty"):
        adapters.merge(folder, out)
    with pytest.raises(CheckpointError, match="expected an adapter folder"):
        adapters.merge(out, tmp_path / "other")


def damaged(folder: Path, copy: Path, name: str) -> Path:
    copy.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name != name:
            (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_damaged_folder_is_refused(owl2: tuple[Path, Path, Tensor], tmp_path: Path) -> None:
    base, folder, _ = owl2

    def apply(changed: Path) -> None:
        model, _ = models.load(base, device="cpu")
        adapters.apply_adapter(model, changed, name=base)

    for name, said in (
        ("changed.safetensors", "trained without LoRA"),
        ("adapter_model.safetensors", "LoRA matrices cannot be read"),
        ("base.json", "expected an adapter folder"),
    ):
        with pytest.raises(CheckpointError, match=said):
            apply(damaged(folder, tmp_path / name, name))
    for name, said in (
        ("changed.safetensors", "trained without LoRA"),
        ("adapter_model.safetensors", "LoRA matrices cannot be read"),
        ("base.json", "cannot be read"),
    ):
        copy = damaged(folder, tmp_path / f"cut-{name}", name)
        (copy / name).write_bytes((folder / name).read_bytes()[:40])
        with pytest.raises(CheckpointError, match=said):
            apply(copy)


def test_tensors_that_do_not_fit_are_named(owl2: tuple[Path, Path, Tensor], tmp_path: Path) -> None:
    base, folder, _ = owl2
    copy = damaged(folder, tmp_path / "a", "changed.safetensors")
    changed = load_file(folder / "changed.safetensors")
    changed["model.abstractor.vit_eos"] = torch.zeros(1, 1, 3)
    save_file(changed, copy / "changed.safetensors")
    model, _ = models.load(base, device="cpu")
    with pytest.raises(CheckpointError, match=r"vit_eos has shape \[1, 1, 3\], the base has \[1, "):
        adapters.apply_adapter(model, copy, name=base)
    copy = damaged(folder, tmp_path / "b", "adapter_model.safetensors")
    matrices = load_file(folder / "adapter_model.safetensors")
    matrices.pop(sorted(matrices)[0])
    save_file(matrices, copy / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 LoRA tensor.* missing"):
        adapters.apply_adapter(model, copy, name=base)


def test_the_base_is_named_by_its_absolute_place(
    owl2: tuple[Path, Path, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder, _ = owl2
    assert json.loads((folder / "base.json").read_text())["name"] == str(base.resolve())
    monkeypatch.chdir(base.parent)
    model, _ = models.load("./base", device="cpu")
    assert adapters.identity(model, "./base") == adapters.read_base(folder)
