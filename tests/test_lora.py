"""LoRA on the language model, and the folder that holds all a fine-tune changed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.errors import ConfigError
from mplug_owl.models.adapters import identity, read_base
from mplug_owl.models.families import build
from mplug_owl.settings import build as settle
from mplug_owl.train import lora, stages
from mplug_owl.train.recipe import Lora, Recipe
from owls import TINY, Rows, batch, random_owl

RECIPE = settle(
    Recipe,
    {
        "name": "test",
        "stage": "instruct",
        "source": "here",
        "train": {"abstractor": {"lr": 1e-3}, "lora": {"lr": 1e-3}},
        "lora": {"targets": ["q_proj", "visual_v_proj"], "rank": 4, "alpha": 8, "dropout": 0.0},
        "compute": {"dtype": "float32"},
    },
)
TARGETS = {"tiny-owl-bloomz": "query_key_value", "tiny-owl2.1": "visual_c_attn"}


@pytest.mark.parametrize("family", TINY)
def test_fresh_lora_changes_nothing(family: str) -> None:
    model = random_owl(family)
    inputs = batch([Rows(model).row(3, "image", 4)])
    before = model(**inputs).logits
    lora.apply(model, Lora(targets=(TARGETS.get(family, "v_proj"),), rank=4))
    torch.testing.assert_close(model(**inputs).logits, before, atol=0, rtol=0)
    holders = {n.partition(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}
    assert len(holders) == 2  # one a layer
    assert all(name.startswith("model.language_model.") for name in holders)


def test_a_target_is_a_whole_name() -> None:
    model = random_owl("tiny-owl2")
    lora.apply(model, Lora(targets=("v_proj",), rank=4))
    assert not [n for n, _ in model.named_parameters() if "visual_v_proj.lora" in n]


def test_every_rank_makes_the_same_matrices() -> None:
    first, second, other = (random_owl("tiny-owl2") for _ in range(3))
    state = torch.get_rng_state()
    lora.apply(first, Lora(rank=4), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    lora.apply(second, Lora(rank=4), seed=1)
    lora.apply(other, Lora(rank=4), seed=2)
    name = "model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    weights = [dict(model.named_parameters())[name] for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_target_is_refused_with_a_suggestion() -> None:
    model = random_owl("tiny-owl-bloomz")
    with pytest.raises(ConfigError, match=r"'q_proj' is no linear layer .*known: dense, "):
        lora.apply(model, Lora())
    with pytest.raises(ConfigError, match="did you mean 'query_key_value'"):
        lora.apply(model, Lora(targets=("query_key_valu",)))


def test_the_folder_holds_all_that_trained(tmp_path: Path) -> None:
    model, processor = build("tiny-owl2")
    base = identity(model, "tiny-owl2")
    stages.prepare(model, RECIPE)
    folder = tmp_path / "run" / "adapter"
    for _ in range(2):  # the second replaces the first
        lora.save_adapter(model, folder, recipe=RECIPE, processor=processor, base=base)
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
    trained = {n: w for n, w in model.named_parameters() if w.requires_grad}
    matrices = load_file(folder / "adapter_model.safetensors")
    changed = load_file(folder / "changed.safetensors")
    assert len(matrices) + len(changed) == len(trained)
    assert len(matrices) == 2 * 2 * 2  # layers x targets x two matrices
    assert set(changed) == {n for n in trained if n.startswith("model.abstractor.")}
    assert all(torch.equal(changed[name], trained[name]) for name in changed)
    assert read_base(folder) == base
    said = json.loads((folder / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["r"]) == ("tiny-owl2", 4)
    assert json.loads((folder / "recipe.json").read_text())["lora"]["alpha"] == 8
    assert (folder / "processor_config.json").is_file()
    assert (folder / "tokenizer.json").is_file()


def test_gathered_weights_may_be_given(tmp_path: Path) -> None:
    model, processor = build("tiny-owl2")
    base = identity(model, "tiny-owl2")
    stages.prepare(model, RECIPE)
    given = {n: torch.ones_like(w) for n, w in model.named_parameters() if w.requires_grad}
    lora.save_adapter(model, tmp_path / "a", recipe=RECIPE, processor=processor, base=base, weights=given)
    assert all(w.eq(1).all() for w in load_file(tmp_path / "a" / "changed.safetensors").values())


def test_a_model_without_lora_is_no_adapter(tmp_path: Path) -> None:
    model, processor = build("tiny-owl2")
    with pytest.raises(ConfigError, match="no LoRA; save it whole"):
        lora.save_adapter(model, tmp_path / "a", recipe=RECIPE, processor=processor, base=identity(model, "tiny-owl2"))


def test_peft_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'pip install "mplug_owl\[train\]"'):
        lora.apply(random_owl("tiny-owl2"), Lora())
