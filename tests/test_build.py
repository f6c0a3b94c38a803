"""Owls built from any tower, connector and decoder: everything that works on an owl works on them."""

import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor

import mplug_owl
from asking import answers, generated, request
from backbones import language_folder, made, shaken, tower_folder
from mplug_owl import models
from mplug_owl.engine.engine import Engine
from mplug_owl.errors import ConfigError
from mplug_owl.models.adapters import merge
from mplug_owl.models.built import build, built_processor
from mplug_owl.models.info import describe
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.parts import assemble
from mplug_owl.models.slots import Slots, configuration
from mplug_owl.train import loop
from mplug_owl.train.objective import Objective, calls_of
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Init, Recipe
from mplug_owl.train.rehearsal import Shape, Work, rehearse
from owls import Row, Rows, batch
from train_fixtures import ListBatches, largest_difference, losses, mixed_rows, recipe, weights


class Combination(NamedTuple):
    vision: str
    connector: str
    language: str
    adaptive: bool

    def __str__(self) -> str:
        return "-".join((self.vision, self.connector, self.language, *(["adaptive"] if self.adaptive else [])))


COMBINATIONS = [
    Combination("clip", "abstractor", "llama", True),
    Combination("siglip", "mlp", "qwen2", False),
    Combination("siglip2", "resampler", "qwen3", True),
    Combination("dinov2", "linear", "mistral", True),
    Combination("dinov3", "q-former", "smollm", True),
    Combination("blip2", "q-former", "opt", False),
    Combination("clip", "mlp", "phi3", True),
    Combination("dinov2-registers", "abstractor", "gemma", True),
    Combination("siglip", "abstractor", "smollm3", True),
]
FAST = COMBINATIONS[:2]
ARGUMENTS = [pytest.param(each, id=str(each), marks=() if each in FAST else pytest.mark.slow) for each in COMBINATIONS]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for each in COMBINATIONS:
        if not (root / each.vision).exists():
            tower_folder(each.vision, root / each.vision)
        if not (root / each.language).exists():
            # A language model without a template of its own gets one of ours.
            language_folder(each.language, root / each.language, *([None] if each.language in ("opt", "llama") else []))
    return root


@pytest.fixture(scope="module", params=COMBINATIONS, ids=str)
def each(request: pytest.FixtureRequest) -> Iterator[Combination]:
    yield request.param


def slots(parts: Path, each: Combination, **changes: Any) -> Slots:
    queries = None if each.connector in ("linear", "mlp") else 5
    settings = {"queries": queries, "adaptive": each.adaptive, **changes}
    return Slots(parts / each.vision, each.connector, parts / each.language, **settings)


def endless(parts: Path, each: Combination, dtype: torch.dtype = torch.float32) -> OwlForConditionalGeneration:
    """A built owl with a connector that matters, for whom no id ends an answer."""
    owl, _ = build(slots(parts, each), dtype=dtype)
    shaken(owl.model.abstractor)
    owl.generation_config.eos_token_id = None
    return owl


def some_rows(owl: OwlForConditionalGeneration) -> list[Row]:
    rows = Rows(owl)
    return [rows.row(4, "image", 3), rows.row(7), rows.row("image", 2, ("video", 2), 5)]


# ---- what it is ----------------------------------------------------------------------------------


def test_the_parts_are_what_they_were(each: Combination, parts: Path) -> None:
    owl, processor = build(slots(parts, each))
    plain = made(each.language)
    ids = torch.randint(3, 250, (2, 17), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(owl(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert owl.config.image_token_id == 259 and owl.config.video_token_id == 260
    assert processor.media_length == owl.config.media_length == owl.config.abstractor_config.positions
    assert processor.image_processor.size["height"] == owl.config.vision_config.image_size == 56
    counted = {module.name: module.parameters for module in describe_built(owl, processor).modules}
    assert sum(counted.values()) == owl.num_parameters()
    if each.adaptive:
        copies = [name for name, _ in owl.named_parameters() if ".visual_" in name and "language_model" in name]
        assert copies


def describe_built(owl: OwlForConditionalGeneration, processor: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        owl.save_pretrained(folder)
        processor.save_pretrained(folder)
        card = describe(folder)
    assert "<image>" in card.prompt and str(card)
    return card


def test_untrained_a_branch_changes_nothing(each: Combination, parts: Path) -> None:
    if not each.adaptive:
        pytest.skip("a plain decoder")
    twin, _ = build(slots(parts, each))
    plain, _ = build(slots(parts, each, adaptive=False))
    shaken(twin.model.abstractor)
    shaken(plain.model.abstractor)
    text = batch([Rows(plain).row(9), Rows(plain).row(4)])
    with torch.no_grad():
        assert torch.equal(twin(**text).logits, plain(**text).logits)
        twin, plain = twin.double(), plain.double()
        seen = batch(some_rows(plain))
        expected, found = plain(**seen).logits, twin(**seen).logits
    apart = (found - expected)[seen["attention_mask"].bool()]
    assert apart.abs().max() < 1e-12


def test_a_batch_is_its_rows(each: Combination, parts: Path) -> None:
    owl = endless(parts, each, torch.float64)
    rows = some_rows(owl)
    with torch.no_grad():
        together = owl(**batch(rows)).logits
        for place, row in enumerate(rows):
            alone = owl(**batch([row])).logits[0]
            assert (together[place, -len(row.ids) :] - alone).abs().max() < 1e-5  # softmax and norms in float32


def test_the_engine_gives_what_generate_gives(each: Combination, parts: Path) -> None:
    owl = endless(parts, each)
    rows = some_rows(owl)
    asked = [request(owl, row) for row in rows]
    assert answers(Engine(owl), asked) == [generated(owl, row) for row in rows]


def test_it_saves_loads_and_chats(each: Combination, parts: Path, tmp_path: Path) -> None:
    owl, processor = build(slots(parts, each))
    owl.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, said = models.load(tmp_path, device="cpu")
    auto = AutoModelForImageTextToText.from_pretrained(tmp_path)
    inputs = batch(some_rows(owl))
    with torch.no_grad():
        expected = owl(**inputs).logits
        for other in (again, auto.eval()):
            assert torch.equal(other(**inputs).logits, expected)
    assert again.generation_config.eos_token_id == owl.config.text_config.eos_token_id
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "An owl."},
    ]
    for opened in (said, AutoProcessor.from_pretrained(tmp_path)):
        text, spans = opened.render(conversation, "training")
        assert (text, spans) == processor.render(conversation, "training")
        assert [text[slice(*span)].strip() for span in spans] == ["An owl." + processor.answer_end]
        ids, target = opened.encode_text(text, spans)
        assert ids.count(259) == processor.media_length
        assert opened.decode([token for token, learnt in zip(ids, target, strict=True) if learnt]).strip() == (
            "An owl." + processor.answer_end
        )
    picture = Image.effect_mandelbrot((80, 60), (-2, -1.5, 1, 1.5), 30)
    answer = mplug_owl.load(tmp_path, device="cpu").chat("What?", images=[picture], max_new_tokens=4)
    assert isinstance(answer, str)
    alone = built_processor(slots(parts, each))
    assert alone.render(conversation) == processor.render(conversation)


def test_other_ranks_make_it_without_weights(each: Combination, parts: Path) -> None:
    owl, processor = build(slots(parts, each))
    config, said = pickle.loads(pickle.dumps((owl.config, processor)))
    with torch.device("meta"):
        bare = OwlForConditionalGeneration(config)
    shapes = {name: (weight.shape, weight.dtype) for name, weight in owl.state_dict().items()}
    assert {name: (weight.shape, weight.dtype) for name, weight in bare.state_dict().items()} == shapes
    assert said.media_length == processor.media_length and said.templates == processor.templates


# ---- what it learns ------------------------------------------------------------------------------


def stage(parts: Path, each: Combination, name: str, *overrides: str) -> Recipe:
    init = {
        "family": "tiny-owl2",
        "vision": str(parts / each.vision),
        "language": str(parts / each.language),
        "connector": each.connector,
        "adaptive": each.adaptive,
    }
    if each.connector not in ("linear", "mlp"):
        init["queries"] = 5
    train = {"abstractor": {"lr": 1e-3}, **({"visual": {"lr": 1e-3}} if each.adaptive else {})}
    if name == "instruct":
        train |= {"vision": {"lr": 1e-4, "layer_decay": 0.9}, "language": {"lr": 1e-4, "weight_decay": 0.1}}
    return recipe("optim.steps=2", "optim.warmup_steps=0", *overrides, init=init, stage=name, train=train)


def train(wanted: Recipe, out: Path) -> loop.Result:
    def data(recipe: Recipe, processor: Any, world: Any, held_out: bool) -> ListBatches | None:
        if held_out:
            return None
        owl = loop.opening.open_owl(recipe)[0]
        return ListBatches(mixed_rows(owl, 16), recipe.batch.size, recipe.batch.micro, world.rank, world.size)

    return loop.run(wanted, out, open_data=data)


@pytest.mark.parametrize("each", ARGUMENTS)
def test_each_stage_trains_and_resumes(each: Combination, parts: Path, tmp_path: Path) -> None:
    for name in ("pretrain", "instruct"):
        wanted = stage(parts, each, name, "keep.every=1", "keep.last=5")
        before = loop.opening.open_owl(wanted)[0].state_dict()
        done = train(wanted, tmp_path / name)
        assert done.step == 2 and all(loss > 0 for _, loss, _ in losses(tmp_path / name))
        after = weights(tmp_path / name)
        moved = {key for key, tensor in after.items() if not torch.equal(tensor, before[key].to(tensor.dtype))}
        prefixes = {".".join(key.split(".")[:2]) for key in moved}
        whole = {"model.abstractor", "model.language_model", "model.vision", "lm_head.weight"}
        if name == "instruct":
            assert {"model.abstractor", "model.language_model", "model.vision"} <= prefixes <= whole
        else:
            assert all(key.startswith("model.abstractor.") or ".visual_" in key for key in moved) and moved
        stopped = tmp_path / f"{name}-again"
        train(stage(parts, each, name, "keep.every=1", "optim.steps=2"), stopped)
        shutil.rmtree(max((stopped / "checkpoints").glob("step-*")))
        shutil.rmtree(stopped / "final")
        train(stage(parts, each, name, "keep.every=1", "optim.steps=2"), stopped)
        assert largest_difference(tmp_path / name, stopped) == 0


@pytest.mark.parametrize("each", ARGUMENTS)
def test_an_adapter_is_saved_opened_and_merged(each: Combination, parts: Path, tmp_path: Path) -> None:
    owl, processor = build(slots(parts, each))
    owl.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    target = "qkv_proj" if each.language == "phi3" else "q_proj"
    wanted = recipe(
        "optim.steps=2",
        "optim.warmup_steps=0",
        init={"family": "tiny-owl2", "start": str(tmp_path / "base")},
        stage="instruct",
        train={"abstractor": {"lr": 1e-3}, "lora": {"lr": 1e-2}},
        lora={"targets": [target], "rank": 2, "alpha": 4, "dropout": 0.0},
        compute={"dtype": "float32"},
    )
    saved = train(wanted, tmp_path / "run").saved
    # In float64, where a sum of products and the product of a sum differ by nothing to speak of.
    opened, _ = models.load(saved, device="cpu", dtype=torch.float64)
    merge(saved, tmp_path / "merged", dtype=torch.float64)
    merged, _ = models.load(tmp_path / "merged", device="cpu", dtype=torch.float64)
    rows = batch(some_rows(owl))
    inputs = {name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in rows.items()}
    with torch.no_grad():
        first, second, third = (model(**inputs).logits for model in (owl.double(), opened, merged))
    torch.testing.assert_close(second, third, atol=1e-9, rtol=1e-9)
    assert (second - first).abs().max() > 1e-2


# ---- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize("each", ARGUMENTS)
def test_the_plan_counts_it(each: Combination, parts: Path) -> None:
    wanted = stage(parts, each, "instruct")
    owl, _ = loop.opening.open_owl(wanted)
    made_plan = plan(wanted, gpus=1, gpu="CPU", length=64, media=1)
    assert sum(module.parameters for module in made_plan.modules.values()) == owl.num_parameters()
    assert made_plan.assumed is None
    shape = Shape(rows=2, length=64, media=1)
    for weight in owl.parameters():
        weight.requires_grad_(True)
    real = flops(owl.train(), shape)
    with torch.device("meta"):
        weightless = OwlForConditionalGeneration(owl.config)
    weightless.tie_weights()
    trace = rehearse(weightless.train(), shape, torch.float32)
    work = sum((*trace.linear.values(), *trace.attention.values()), Work())
    assert [work.forward, work.backward] == pytest.approx(real, rel=0.02)


def flops(owl: OwlForConditionalGeneration, shape: Shape) -> list[int]:
    """Of a real micro-batch, forward and backward, as torch counts them."""
    config, side = owl.config, owl.config.vision_config.image_size
    ids = torch.randint(3, 250, (shape.rows, shape.length))
    ids[:, : config.media_length] = config.image_token_id
    causal = torch.ones(shape.length, shape.length, dtype=torch.bool).tril()
    given = {
        "input_ids": ids,
        "pixel_values": torch.randn(shape.rows, 3, side, side),
        "attention_mask": causal.expand(shape.rows, 1, -1, -1).contiguous(),
        "position_ids": torch.arange(shape.length).expand(shape.rows, -1),
    }
    counted = []
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            loss = Objective(owl)(given, ids, sorted(calls_of(owl, given)), 9)
        counted.append(counter.get_total_flops())
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counted.append(counter.get_total_flops())
    return counted


# ---- what does not fit ---------------------------------------------------------------------------


def test_our_own_eyes_fit_too(parts: Path, tmp_path: Path) -> None:
    for family in ("tiny-owl-video", "tiny-owl2.1"):
        old, said = models.load(family, device="cpu")
        shaken(old)
        old.save_pretrained(tmp_path / family)
        said.save_pretrained(tmp_path / family)
        owl, processor = build(Slots(tmp_path / family, "resampler", parts / "qwen2", queries=3))
        seen = Rows(owl).pixels(2)
        with torch.no_grad():
            expected = old.model.vision(seen).last_hidden_state
            assert torch.equal(owl.model.vision(seen).last_hidden_state, expected)
        assert not owl.config.vision_config.temporal and processor.video_as_frames
        assert processor.image_processor.aspect == said.image_processor.aspect
        with pytest.raises(ConfigError, match="features='last': the f_V of an owl is taken as it is"):
            configuration(Slots(tmp_path / family, "mlp", parts / "qwen2", features="last"))


def test_the_seed_makes_the_connector(parts: Path) -> None:
    first, again, other = (build(slots(parts, COMBINATIONS[0]), seed=seed)[0] for seed in (3, 3, 4))
    name = "model.abstractor.query_tokens"
    states = [owl.state_dict()[name] for owl in (first, again, other)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_what_does_not_fit_is_refused(parts: Path) -> None:
    eye, mouth = parts / "clip", parts / "qwen2"
    for wrong, said in (
        (lambda: Slots(eye, "abstractr", mouth), "did you mean 'abstractor'"),
        (lambda: configuration(Slots(eye, "mlp", mouth, queries=4)), "mlp has none"),
        (lambda: configuration(Slots(mouth, "mlp", mouth)), "'qwen2' has no place in an owl"),
        (lambda: configuration(Slots(eye, "mlp", eye)), "decoder of kind 'clip_vision_model' has no place"),
        (lambda: configuration(Slots(eye, "mlp", parts / "opt", adaptive=True)), "lacks RMS norms"),
        (lambda: assemble(connector="mlp", vision=eye), "give vision and language"),
        (lambda: Init(connector="mlp", vision="x"), "but not init.language"),
        (lambda: Init(features="last"), "without init.connector"),
        (lambda: Init(start="x", connector="mlp", vision="x", language="y"), "are both given"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()


def test_a_built_owl_keeps_its_size(parts: Path, tmp_path: Path) -> None:
    owl, processor = build(slots(parts, COMBINATIONS[1]))
    owl.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for change in ({"image_size": 84}, {"queries": 3}):
        with pytest.raises(ConfigError, match=f"{next(iter(change))}="):
            assemble(start=tmp_path, **change)
    twin, _ = assemble(start=tmp_path, adaptive=True)
    inputs = batch(some_rows(owl))
    with torch.no_grad():
        torch.testing.assert_close(twin(**inputs).logits, owl(**inputs).logits, atol=1e-5, rtol=1e-5)
    assert twin.model.language_model.takes_visual_index
