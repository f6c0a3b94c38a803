"""Owls that a study changes: another number of queries or connector, a visual branch that comes or goes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mplug_owl import load
from mplug_owl.errors import ConfigError
from mplug_owl.models import parts
from mplug_owl.models.build_command import CONNECTORS
from mplug_owl.models.families import build
from mplug_owl.train import recipe as recipes
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Init


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    model, processor = build("tiny-owl2", seed=3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("queries", [3, 20])
def test_queries_change_and_f_k_starts_anew(start: Path, queries: int, tmp_path: Path) -> None:
    old, _ = parts.assemble(start=start)
    made, processor = parts.assemble(start=start, queries=queries, seed=5)
    assert processor.media_length == made.config.media_length == queries + 1
    before = old.state_dict()
    for name, tensor in made.state_dict().items():
        if not name.startswith("model.abstractor."):
            assert torch.equal(tensor, before[name]), name
    other, _ = parts.assemble(start=start, queries=queries, seed=6)
    names = ("model.abstractor.query_tokens", "model.abstractor.layers.0.attention.key.weight")
    assert all(not torch.equal(made.state_dict()[name], other.state_dict()[name]) for name in names)
    made.save_pretrained(tmp_path / "made")
    processor.save_pretrained(tmp_path / "made")
    picture = Image.new("RGB", (40, 30), "navy")
    answer = load(tmp_path / "made", device="cpu").chat("What?", images=[picture], max_new_tokens=3)
    assert isinstance(answer, str)


@pytest.mark.parametrize("connector", CONNECTORS)
def test_another_connector_takes_the_place_of_f_k(start: Path, connector: str, tmp_path: Path) -> None:
    old, _ = parts.assemble(start=start)
    made, processor = parts.assemble(start=start, connector=connector, seed=5)
    all_tokens = old.config.vision_config.num_tokens
    positions = {"abstractor": 9, "linear": all_tokens, "mlp": all_tokens}.get(connector, 8)  # of 8 queries
    assert processor.media_length == made.config.media_length == positions
    before = old.state_dict()
    for name, tensor in made.state_dict().items():
        if not name.startswith("model.abstractor."):
            assert torch.equal(tensor, before[name]), name
    again, other = (parts.assemble(start=start, connector=connector, seed=seed)[0].state_dict() for seed in (5, 6))
    kept = [name for name in again if name.startswith("model.abstractor.") and again[name].ndim > 1]
    assert all(torch.equal(again[name], made.state_dict()[name]) for name in kept)
    assert any(not torch.equal(other[name], again[name]) for name in kept)
    if hasattr(made.config.abstractor_config, "num_queries"):
        assert made.config.abstractor_config.num_hidden_layers == old.config.abstractor_config.num_hidden_layers
    made.save_pretrained(tmp_path / "made")
    processor.save_pretrained(tmp_path / "made")
    opened = load(tmp_path / "made", device="cpu")
    assert all(torch.equal(tensor, opened.model.state_dict()[name]) for name, tensor in made.state_dict().items())
    assert isinstance(opened.chat("What?", images=[Image.new("RGB", (40, 30), "navy")], max_new_tokens=3), str)


def test_a_connector_that_cannot_be_is_refused(start: Path) -> None:
    with pytest.raises(ConfigError, match=r"queries=3; linear has none: it keeps all \d+ tokens"):
        parts.assemble(start=start, connector="linear", queries=3)
    video, _ = build("tiny-owl-video", seed=0)
    with pytest.raises(ConfigError, match="sees a video as a whole"):
        parts.other_connector(video.config, "mlp", None)
    with pytest.raises(ConfigError, match=r"give both, or a whole owl as init\.start"):
        Init(connector="mlp")
    with pytest.raises(ConfigError, match=r"init\.cls=True is given without init\.connector, or with init\.start"):
        Init(start="x", connector="mlp", cls=True)


def test_as_many_queries_change_nothing(start: Path) -> None:
    old, made = parts.assemble(start=start)[0], parts.assemble(start=start, queries=8, adaptive=True)[0]
    assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in made.state_dict().items())


def test_a_family_can_be_built_with_other_queries_and_branches() -> None:
    made, processor = parts.assemble("owlet-nano", queries=5, adaptive=False)
    assert processor.media_length == 6 and made.model.abstractor.query_tokens.shape[1] == 5
    assert not any("visual_k" in name for name, _ in made.named_parameters())
    assert made.config.abstractor_config.position_grid == 8
    with pytest.raises(ConfigError, match="at least 1 learned query"):
        parts.assemble("owlet-nano", queries=0)
    with pytest.raises(ConfigError, match=r"qwen1.*keeps the branches"):
        parts.assemble("tiny-owl2.1", adaptive=False)


@torch.no_grad()
def test_a_new_visual_branch_is_a_copy_and_taking_it_away_brings_the_owl_back(start: Path, tmp_path: Path) -> None:
    plain, processor = parts.assemble(start=start, adaptive=False)
    plain.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    module, _ = parts.assemble(start=tmp_path / "plain", adaptive=True)
    weights = module.state_dict()
    branch = [name for name in weights if ".language_model." in name and "visual_" in name]
    assert branch and all(torch.equal(weights[name], weights[name.replace("visual_", "")]) for name in branch)
    pixels = torch.rand(1, 3, 56, 56)
    inputs = {"input_ids": torch.tensor([[5, *[module.config.image_token_id] * 9, 6, 7]]), "pixel_values": pixels}
    torch.testing.assert_close(module(**inputs).logits, plain(**inputs).logits)
    back = parts.branch(module, adaptive=False)
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_the_plan_knows_what_a_start_becomes(start: Path) -> None:
    def parameters(*overrides: str) -> int:
        made = plan(recipes.load("owlet-nano-pretrain", (f"init.start={start}", *overrides)), gpus=1, gpu="CPU")
        return sum(module.parameters for module in made.modules.values())

    assert parameters("init.queries=16") - parameters() == 8 * 64
    assert parameters("init.adaptive=false", "train={vision={lr=1e-3}}") < parameters()
    for connector in ("linear", "q-former"):
        made, _ = parts.assemble(start=start, connector=connector)
        assert parameters(f"init.connector={connector}") == made.num_parameters()


def test_lora_needs_a_base_that_exists() -> None:
    for change in ("queries=4", "adaptive=false"):
        with pytest.raises(ConfigError, match=rf"init\.{change.partition('=')[0]}.*are both given"):
            recipes.load("owl2-instruct-lora", (f"init.{change}",))
