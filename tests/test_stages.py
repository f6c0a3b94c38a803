"""Stages: what trains is what the recipe says, in the dtypes and groups it says."""

import dataclasses
from typing import Any

import pytest
import torch

from mplug_owl.errors import ConfigError
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.settings import build
from mplug_owl.train import recipe as recipes
from mplug_owl.train import stages
from mplug_owl.train.recipe import Recipe
from owls import TINY, Rows, batch, random_owl

TWINS = {"owl-7b": "tiny-owl", "owl2-7b": "tiny-owl2", "owlet": "owlet-nano", "owlet-nano": "owlet-nano"}


def recipe(train: dict[str, dict[str, float]], dtype: str = "float32", **sections: Any) -> Recipe:
    tree = {"name": "test", "stage": "instruct", "source": "here", "train": train}
    return build(Recipe, tree | {"compute": {"dtype": dtype}} | sections)


def two_steps(model: OwlForConditionalGeneration, groups: list[dict[str, Any]]) -> None:
    rows = Rows(model)
    inputs = batch([rows.row(4, "image", 6), rows.row(9)])
    optimizer = torch.optim.AdamW(groups)
    model.train()
    for _ in range(2):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.isfinite(loss)


def copied(model: OwlForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("family", TINY)
def test_every_parameter_has_its_module(family: str) -> None:
    model = random_owl(family)
    names = {module: [] for module in recipes.MODULES}
    for name, _ in model.named_parameters():
        names[stages.module_of(name)].append(name)
    owl = model.model
    assert len(names["vision"]) == len(list(owl.vision.parameters()))
    assert len(names["abstractor"]) == len(list(owl.abstractor.parameters()))
    assert not names["lora"]
    adaptive = getattr(owl.language_model, "takes_visual_index", False)
    assert bool(names["visual"]) == adaptive
    assert all(name.startswith("model.language_model.") for name in names["visual"])
    assert any("embed" in name for name in names["language"])


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_shipped_recipe_trains_what_it_says(name: str) -> None:
    wanted = recipes.load(name)
    family = TWINS[wanted.init.family]
    model = random_owl(family, dtype=torch.float32)
    stages.prepare(model, wanted)
    for weight_name, weight in model.named_parameters():
        trains = stages.module_of(weight_name) in wanted.train
        assert weight.requires_grad == trains
        assert weight.dtype == (torch.float32 if trains else torch.bfloat16)
    wanted = recipes.load(name, ("compute.dtype=float32",))
    model = random_owl(family, dtype=torch.float32)
    groups = stages.prepare(model, wanted)
    before = copied(model)
    two_steps(model, groups)
    changed = {n for n, weight in model.named_parameters() if not torch.equal(weight, before[n])}
    assert {stages.module_of(n) for n in changed} == set(wanted.train)
    trained = {n for n, weight in model.named_parameters() if weight.requires_grad}
    assert changed <= trained  # what is frozen is bitwise what it was
    assert trained - changed <= {n for n in trained if ".lora_A." in n}


def test_groups_hold_each_trained_parameter_once() -> None:
    wanted = recipe(
        {
            "vision": {"lr": 1e-3, "weight_decay": 0.1, "layer_decay": 0.5},
            "abstractor": {"lr": 2e-3, "weight_decay": 0.2},
            "visual": {"lr": 3e-3},
        }
    )
    model = random_owl("tiny-owl2")
    groups = stages.prepare(model, wanted)
    held = [id(weight) for group in groups for weight in group["params"]]
    trained = [id(weight) for weight in model.parameters() if weight.requires_grad]
    assert sorted(held) == sorted(trained)
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    for group in groups:
        if group["name"].endswith(".no_decay"):
            assert all(weight.ndim < 2 for weight in group["params"])
            assert group["weight_decay"] == 0
        elif group["name"] != "visual":  # which has no decay to be spared
            assert all(weight.ndim >= 2 for weight in group["params"])
            assert group["weight_decay"] == (0.1 if "vision" in group["name"] else 0.2)
    lr = {group["name"]: group["lr"] for group in groups}
    assert lr["vision.layers.1"] == lr["vision.outputs.no_decay"] == 1e-3
    assert lr["vision.layers.0"] == 5e-4
    assert lr["vision.inputs"] == 2.5e-4  # patches, cls, positions: below the first layer
    assert lr["abstractor"] == lr["abstractor.no_decay"] == 2e-3
    assert lr["visual"] == 3e-3


def test_groups_can_be_asked_for_again() -> None:
    wanted = recipe({"abstractor": {"lr": 1e-3}})
    model = random_owl("tiny-owl2")
    first = stages.prepare(model, wanted)
    again = stages.parameter_groups(model, wanted)
    assert [(g["name"], len(g["params"])) for g in first] == [(g["name"], len(g["params"])) for g in again]


def test_float64_stays_float64() -> None:
    wanted = recipe({"language": {"lr": 1e-3}}, dtype="float64")
    model = random_owl("tiny-owl", dtype=torch.float32)
    stages.prepare(model, wanted)
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}


def test_a_tied_head_trains_with_its_embedding() -> None:
    model = random_owl("tiny-owl-bloomz", dtype=torch.float32)
    groups = stages.prepare(model, recipe({"language": {"lr": 1e-3}}))
    table = model.model.language_model.word_embeddings.weight
    assert model.lm_head.weight is table
    assert sum(weight is table for group in groups for weight in group["params"]) == 1


def test_an_owl_without_weights_can_be_prepared() -> None:
    wanted = recipe({"abstractor": {"lr": 1e-3}, "lora": {"lr": 1e-3}}, dtype="bfloat16", lora={"rank": 4})
    with torch.device("meta"):
        model = OwlForConditionalGeneration(FAMILIES["tiny-owl2"].config())
    stages.prepare(model, wanted)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert "lora" in stages.table(model)


def test_a_module_the_family_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trains 'visual'.*it has vision, abstractor, language"):
        stages.prepare(random_owl("tiny-owl"), recipe({"visual": {"lr": 1e-3}}))


def test_a_broken_promise_stops_the_run() -> None:
    wanted = recipe({"abstractor": {"lr": 1e-3}})
    model = random_owl("tiny-owl2")
    stages.prepare(model, wanted)
    stages.check_promise(model, wanted)
    model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"lm_head\.weight is trainable, but .*'language' is fro"):
        stages.check_promise(model, wanted)
    model.lm_head.weight.requires_grad_(False)
    model.model.abstractor.vit_eos.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"vit_eos is frozen, but .*'abstractor' is trained"):
        stages.check_promise(model, wanted)
    more = dataclasses.replace(wanted, train={})
    with pytest.raises(ConfigError, match="is frozen; call prepare"):
        stages.check_promise(model, more)


def test_the_table_counts_every_module() -> None:
    model = random_owl("tiny-owl2", dtype=torch.float32)
    stages.prepare(model, recipe({"abstractor": {"lr": 1e-3}}, dtype="bfloat16"))
    lines = stages.table(model).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert list(rows) == ["vision", "abstractor", "visual", "language", "all"]
    count = sum(weight.numel() for weight in model.model.abstractor.parameters())
    assert rows["abstractor"] == [f"{count:,}", "0", "100.00%", "float32"]
    assert rows["vision"][0] == "0" and rows["vision"][3] == "bfloat16"
    total = sum(weight.numel() for weight in model.parameters())
    assert rows["all"][:2] == [f"{count:,}", f"{total - count:,}"]
    assert max(map(len, lines)) <= 100
