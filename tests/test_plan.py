"""The plan against the run: FLOPs against torch's own counter, memory against the profiler."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.errors import ConfigError
from mplug_owl.models.families import FAMILIES
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.train import plan as plans
from mplug_owl.train import stages
from mplug_owl.train.hardware import ACCELERATORS
from mplug_owl.train.objective import Objective, calls_of
from mplug_owl.train.optim import adamw
from mplug_owl.train.parallel import World, arrange
from mplug_owl.train.plan import Plan, plan
from mplug_owl.train.recipe import Batch, Compute, Data, Init, Lora, Module, Optim, Recipe, load, shipped
from mplug_owl.train.rehearsal import Shape, Trace, Work, rehearse
from tests.owls import TINY

ALL = ("vision", "abstractor", "language")
TRAINED = (ALL, ("vision", "abstractor"), ("abstractor",), ("language",))
RELEASED = [name for name, row in FAMILIES.items() if row.repository]


def owl(config: OwlConfig, trained: tuple[str, ...], device: str = "meta") -> OwlForConditionalGeneration:
    """An owl of which some modules train."""
    with torch.device(device):
        model = OwlForConditionalGeneration(config)
    model.tie_weights()
    for name, weight in model.named_parameters():
        module = name.split(".")[1] if name.split(".")[1] in ALL else "language"
        weight.requires_grad_(module in trained)
    return model.train()


def inputs(config: OwlConfig, shape: Shape) -> dict[str, Tensor]:
    """A real micro-batch of that shape, media first in each row."""
    ids = torch.randint(3, config.text_config.vocab_size, (shape.rows, shape.length))
    size = config.vision_config.image_size
    lead = (shape.rows * shape.media, 3, size, size)
    video = shape.frames > 1
    spread = shape.frames if video and not config.vision_config.temporal else 1
    positions = shape.media * config.media_length * spread
    ids[:, :positions] = config.video_token_id if video else config.image_token_id
    batch = {"input_ids": ids, "labels": ids}
    if video:
        batch["pixel_values_videos"] = torch.randn(lead[0], shape.frames, *lead[1:])
    elif shape.media:
        batch["pixel_values"] = torch.randn(lead)
    if shape.packed and config.text_config.model_type != "bloom":
        causal = torch.ones(shape.length, shape.length, dtype=torch.bool).tril()
        batch["attention_mask"] = causal.expand(shape.rows, 1, -1, -1).contiguous()
        batch["position_ids"] = torch.arange(shape.length).expand(shape.rows, -1)
    else:
        batch["attention_mask"] = torch.ones_like(ids)
    return batch


def counted(model: OwlForConditionalGeneration, shape: Shape) -> tuple[list[int], list[int]]:
    """FLOPs of a real micro-batch, forward and backward: linear ones, and batched products, which
    under the math backend are attention.
    """
    linear, batched = [], []
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            batch = inputs(model.config, shape)
            labels = batch.pop("labels")
            loss = Objective(model)(batch, labels, sorted(calls_of(model, batch)), 99)
        counters = [counter]
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counters.append(counter)
    for counter in counters:
        counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        batched.append(sum(n for op, n in counts.items() if "bmm" in op))
        linear.append(sum(counts.values()) - batched[-1])
    return linear, batched


def planned(trace: Trace) -> tuple[Work, Work]:
    return sum(trace.linear.values(), Work()), sum(trace.attention.values(), Work())


@pytest.mark.parametrize("trained", TRAINED, ids="+".join)
@pytest.mark.parametrize("family", TINY)
def test_flops_are_those_torch_counts(family: str, trained: tuple[str, ...]) -> None:
    config = FAMILIES[family].config()
    shape = Shape(rows=2, length=96, media=3)
    linear, attention = counted(owl(config, trained, "cpu"), shape)
    trace = rehearse(owl(config, trained), shape, torch.float32)
    work, scores = planned(trace)
    assert [work.forward, work.backward] == pytest.approx(linear, rel=0.005)
    assert [scores.forward, scores.backward] == pytest.approx(attention, rel=0.02)
    assert work.recompute == 0


@pytest.mark.parametrize("family", ["tiny-owl-video", "tiny-owl2"])
def test_flops_of_videos(family: str) -> None:
    config = FAMILIES[family].config()
    shape = Shape(rows=2, length=96, media=2, frames=3, packed=False)
    linear, _ = counted(owl(config, ALL, "cpu"), shape)
    trace = rehearse(owl(config, ALL), shape, torch.float32)
    work, _ = planned(trace)
    assert [work.forward, work.backward] == pytest.approx(linear, rel=0.005)


def test_weights_are_no_part_of_what_comes_and_goes() -> None:
    model = owl(FAMILIES["tiny-owl2"].config(), ("language",))
    peak = rehearse(model, Shape(rows=1, length=8, media=0), torch.float32).peak
    assert sum(peak.values()) < sum(weight.nbytes for weight in model.parameters()) / 3
    assert peak["inputs"] == 8 * 8 + 8 * 8 + 8 * 8  # labels, positions, mask


def test_a_module_before_the_first_trained_one_has_no_backward() -> None:
    shape = Shape(rows=2, length=64, media=2)
    model = owl(FAMILIES["tiny-owl2"].config(), ("abstractor",))
    work = rehearse(model, shape, torch.float32).linear
    assert work["vision"].forward > 0 == work["vision"].backward
    # A frozen module behind it passes gradients on but has none of its own.
    assert work["language"].backward == work["language"].forward


def test_rows_without_media_cannot_train_the_abstractor() -> None:
    with pytest.raises(ConfigError, match="media=0"):
        plan(recipe(train=("abstractor",)), media=0)


def test_checkpointing_computes_layers_again() -> None:
    config, shape = FAMILIES["tiny-owl2"].config(), Shape(rows=2, length=96, media=3)

    def checkpointed(device: str) -> OwlForConditionalGeneration:
        model = owl(config, ALL, device)
        model.activation_checkpointing_enable()
        return model

    linear, _ = counted(checkpointed("cpu"), shape)
    again = rehearse(checkpointed("meta"), shape, torch.float32)
    plain = rehearse(owl(config, ALL), shape, torch.float32)
    work, own = planned(again)[0], planned(plain)[0]
    assert [work.forward, work.backward + work.recompute] == pytest.approx(linear, rel=0.005)
    assert (work.forward, work.backward) == (own.forward, own.backward)
    assert work.recompute > 0 == again.linear["head"].recompute
    assert sum(again.peak.values()) < 0.7 * sum(plain.peak.values())


@pytest.mark.parametrize("family", RELEASED)
def test_released_sizes_are_rehearsed_without_memory(family: str) -> None:
    config = FAMILIES[family].config()
    shape = Shape(rows=1, length=256, media=1)
    model = owl(config, ("abstractor",))
    names = [n for n, p in model.named_parameters() if "language_model" in n and p.ndim == 2]
    weights = dict(model.named_parameters())
    text = sum(weights[n].numel() for n in names if "embed" not in n and "visual_" not in n)
    visual = sum(weights[n].numel() for n in names if "visual_" in n)
    trace = rehearse(model, shape, torch.bfloat16)
    expected = 2 * (256 * text + config.media_length * visual)
    assert trace.linear["language"].forward == expected


def medium(config: OwlConfig, vocabulary: int = 16000) -> OwlConfig:
    """The family at a size whose tensors outweigh what kernels need on the side."""
    raw = config.to_dict()
    vision, abstractor, text = (raw[f"{n}_config"] for n in ("vision", "abstractor", "text"))
    side = {"hidden_size": 256, "num_attention_heads": 4}
    vision |= {**side, "image_size": 224, "intermediate_size": 1024, "num_hidden_layers": 4}
    abstractor |= {**side, "intermediate_size": 704, "num_queries": 64, "output_size": 512}
    if abstractor["position_grid"] is not None:
        abstractor["position_grid"] = 16
    text |= {"vocab_size": vocabulary, "hidden_size": 512}
    if text["model_type"] == "bloom":
        text |= {"n_layer": 4, "n_head": 8}
    else:
        text |= {"num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 64}
        text |= {"intermediate_size": 1376}
    for key in ("image_token_id", "video_token_id"):
        raw[key] = None
    return OwlConfig.from_dict(raw)


def measured_peak(config: OwlConfig, of: Recipe, shape: Shape) -> int:
    """Most bytes alive at once in two steps of a real run, as the profiler saw them come and go."""
    batch = inputs(config, shape)
    labels = batch.pop("labels")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = OwlForConditionalGeneration(config)
        groups = stages.prepare(model, of)
        spread = arrange(model, groups, of.compute, World(0, 1, torch.device("cpu")))
        optimizer = adamw(spread.groups, of.optim)
        for _ in range(2):
            spread.forget()
            loss = spread.objective(batch, labels, calls_of(model, batch), 99)
            spread.backward(loss, is_last=True)
            optimizer.step()
            spread.moved()
    events = profiler.profiler.kineto_results.events()
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = peak = 0
    for _, size in moves:
        alive += size
        peak = max(peak, alive)
    return peak + sum(tensor.nbytes for tensor in (*batch.values(), labels))


def recipe(family: str = "tiny-owl2", train: tuple[str, ...] = ALL, **fields: Any) -> Recipe:
    small = {"batch": Batch(64, 4), "optim": Optim(steps=10), "data": Data(max_length=128)}
    return Recipe(
        name="a-recipe",
        stage="pretrain",
        source="this test",
        train={module: Module(lr=1e-4) for module in train},
        **{"init": Init(family=family), **small, **fields},
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl2.1", "tiny-owl-bloomz"])
@pytest.mark.parametrize(
    ("trained", "compute", "rows"),
    [
        (ALL, Compute(dtype="float32"), 4),
        (("vision", "abstractor"), Compute(), 8),
        (ALL, Compute(checkpoint_activations=True), 8),
    ],
    ids=("all", "bfloat16", "checkpointed"),
)
def test_memory_is_what_the_profiler_sees(
    family: str, trained: tuple[str, ...], compute: Compute, rows: int, tmp_path: Path
) -> None:
    config = medium(FAMILIES[family].config())
    config.save_pretrained(tmp_path)
    adaptive = family == "tiny-owl2" or family == "tiny-owl2.1"
    train = (*trained, "visual") if adaptive and trained == ALL else trained
    of = recipe(
        train=train,
        init=Init(start=str(tmp_path)),
        compute=compute,
        batch=Batch(rows, rows),
        data=Data(max_length=512, images_per_row=3),
    )
    made = plan(of)
    real = measured_peak(config, of, made.shape)
    assert real > 10**9
    assert made.total_memory == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("family", TINY)
def test_parameters_are_those_of_the_model(family: str) -> None:
    made = plan(recipe(family, ("vision", "abstractor")))
    model = OwlForConditionalGeneration(FAMILIES[family].config())
    assert sum(m.parameters for m in made.modules.values()) == model.num_parameters()
    trained = [*model.model.vision.parameters(), *model.model.abstractor.parameters()]
    assert sum(m.trained for m in made.modules.values()) == sum(p.numel() for p in trained)


def test_lora_trains_its_share_alone() -> None:
    made = plan(recipe("owl-7b", ("lora",), lora=Lora()))
    # q and v of 32 layers, rank 8: two matrices of 4096 x 8 each
    assert made.modules["lora"] == plans.Module(4_194_304, 4_194_304)
    assert sum(m.trained for m in made.modules.values()) == 4_194_304
    assert made.memory["optimizer state"] == 2 * 4 * 4_194_304
    assert made.memory["gradients"] == 4 * 4_194_304
    assert made.flops["vision"].backward == made.flops["abstractor"].backward == 0


def test_a_step_is_the_same_work_whatever_it_is_cut_into() -> None:
    made = {(gpus, micro): plan(recipe(batch=Batch(64, micro)), gpus) for gpus, micro in ((1, 4), (2, 4), (4, 2))}
    assert len({p.step_flops for p in made.values()}) == 1
    assert {key: p.accumulate for key, p in made.items()} == {(1, 4): 16, (2, 4): 8, (4, 2): 8}
    assert made[2, 4].step_seconds < made[1, 4].step_seconds


def test_what_a_run_sees() -> None:
    packed = plan(recipe(data=Data(max_length=128, images_per_row=5)))
    assert packed.shape == Shape(rows=4, length=128, media=5)
    assert (packed.positions, packed.media, packed.samples) == (10 * 64 * 128, 3200, 3200)
    half = plan(recipe(data=Data(max_length=128, pack=False, multimodal_share=0.5)))
    assert half.shape.media == 1
    assert (half.media, half.samples) == (320, 640)
    assert half.flops["vision"].forward * 10 == packed.flops["vision"].forward


def test_epochs_need_the_rows_of_one() -> None:
    unknown = plan(recipe(optim=Optim(epochs=2)))
    assert unknown.steps is unknown.hours is unknown.positions is None
    assert "--epoch-rows" in str(unknown)
    assert plan(recipe(optim=Optim(epochs=2)), epoch_rows=1000).steps == 32


def test_sharding_divides_what_copies_repeat() -> None:
    copied = plan(recipe("owl2-7b", batch=Batch(8, 1)), 8)
    sharded = plan(recipe("owl2-7b", batch=Batch(8, 1), compute=Compute(parallel="fsdp")), 8, "H200")
    assert sharded.memory["optimizer state"] * 8 == pytest.approx(copied.memory["optimizer state"], rel=1e-4)
    assert sharded.memory["gradients"] * 8 == pytest.approx(copied.memory["gradients"], rel=0.01)
    assert "gathered layers" in sharded.memory
    assert sharded.step_flops == copied.step_flops


def fixed(made: Plan, original: Recipe) -> Plan:
    """The plan with its remedy taken."""
    assert made.remedy is not None
    return plan(plans._changed(original, made.remedy.overrides), made.remedy.gpus, made.setting.gpu)


def check_remedy(original: Recipe, gpus: int, gpu: str, *expected: str) -> None:
    made = plan(original, gpus, gpu)
    assert not made.fits
    assert max(map(len, str(made).splitlines())) <= 100
    for words in expected:
        assert words in str(made)
    better = fixed(made, original)
    assert better.fits
    assert made.remedy is not None
    assert better.total_memory == made.remedy.memory


def test_a_smaller_micro_batch_is_the_first_advice() -> None:
    text = Data(max_length=128, images_per_row=0)
    large = recipe(data=text, batch=Batch(2**17, 2**17))
    check_remedy(large, 1, "RTX4090", "\n  batch.micro=16384\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (8, ("batch.micro=", "compute.parallel=fsdp")),
        (1, ("--gpus ", "compute.parallel=fsdp", "compute.checkpoint_activations=true", "lora")),
    ],
)
def test_a_large_owl_is_told_to_shard(gpus: int, expected: tuple[str, ...]) -> None:
    large = recipe("owl-7b", data=Data(max_length=1024), batch=Batch(256, 16))
    check_remedy(large, gpus, "A100-80", *expected)


def test_what_no_change_can_fit_is_said_so() -> None:
    hopeless = recipe(data=Data(max_length=2**18, images_per_row=1), batch=Batch(1, 1))
    made = plan(hopeless, gpu="RTX4090")
    assert made.remedy is not None
    assert not made.remedy.fits
    assert "not even this makes it fit" in str(made)


def test_text_and_json() -> None:
    shard = Compute(parallel="fsdp")
    made = plan(recipe("owl2-7b", (*ALL, "visual"), batch=Batch(256, 1), compute=shard), 8)
    assert made.fits
    lines = str(made).splitlines()
    assert max(map(len, lines)) <= 100
    assert str(made).isascii()
    read = json.loads(made.to_json())
    assert read["modules"]["visual"]["parameters"] == 1_074_003_968
    assert read["total_memory"] == sum(read["memory"].values())
    assert read["hours"] == pytest.approx(10 * made.step_seconds / 3600)


@pytest.mark.parametrize("gpu", [*ACCELERATORS, "rtx-4090", "a10080"])
def test_known_gpus(gpu: str) -> None:
    assert plan(recipe(), gpu=gpu).fits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "H2000"}, "did you mean 'H200'"),
        ({"gpus": 0}, "at least 1 GPU"),
        ({"mfu": 1.5}, "0 < mfu <= 1"),
        ({"media": 100}, "do not fit into length=128"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(recipe(), **options)  # type: ignore[arg-type]


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, ...]] = []

    def load(name: str, overrides: tuple[str, ...]) -> Recipe:
        seen.append(overrides)
        text = Data(max_length=128, images_per_row=0)
        return recipe(data=text, batch=Batch(2**16, 2**16 if name == "large" else 1))

    monkeypatch.setattr(plans.recipes, "load", load)
    parser = ArgumentParser()
    plans.add_arguments(parser)
    assert plans.run(parser.parse_args(["small", "optim.steps=3", "--gpu", "L40S"])) == 0
    assert "TFLOP of a step" in capsys.readouterr().out
    assert plans.run(parser.parse_args(["large", "--gpu", "RTX4090", "--json"])) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False
    assert seen == [("optim.steps=3",), ()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("owlet")])
def test_every_recipe_is_planned_without_its_weights(name: str) -> None:
    made = plan(load(name), 8, epoch_rows=10**6)
    assert made.fits
    assert made.steps
    assert "not here, so planned with the sizes of owl" in " ".join(str(made).split())
    assert max(map(len, str(made).splitlines())) <= 100


def test_every_parameter_has_a_module() -> None:
    model = owl(FAMILIES["tiny-owl2"].config(), ALL)
    names = {stages.module_of(name) for name, _ in model.named_parameters()}
    assert names == {"vision", "abstractor", "visual", "language"}
