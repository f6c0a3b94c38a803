"""The training run on one process: what it learns, what it must not touch, and when it stops."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mplug_owl.errors import CheckpointError, ConfigError, DataError
from mplug_owl.models import load
from mplug_owl.models.adapters import apply_adapter
from mplug_owl.train import checkpoint, loop
from mplug_owl.train.objective import Objective, calls_of
from mplug_owl.train.recipe import Recipe
from train_fixtures import (
    ListBatches,
    largest_difference,
    launch,
    losses,
    mixed_rows,
    open_data,
    open_owl,
    recipe,
    weights,
)


def train(wanted: Recipe, out: Path, data: Any = open_data, **options: Any) -> loop.Result:
    return loop.run(wanted, out, open_owl=open_owl, open_data=data, **options)


@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl-video", "tiny-owl-bloomz"])
def test_the_cut_into_micro_batches_changes_nothing(family: str, tmp_path: Path) -> None:
    for micro in (1, 8):
        wanted = recipe(f"init.family={family}", f"batch.micro={micro}", "optim.steps=3")
        assert train(wanted, tmp_path / str(micro)).step == 3
    assert largest_difference(tmp_path / "1", tmp_path / "8") < 1e-9


def test_the_loss_is_the_mean_over_the_windows_tokens(tmp_path: Path) -> None:
    train(recipe("optim.steps=1"), tmp_path)
    owl, _ = open_owl(recipe())
    total, targets = 0.0, 0
    for name, row in mixed_rows(owl)[:8]:
        alone = ListBatches([(name, row)], 1, 1, 0, 1).step(0)[0]
        loss = owl.train()(**alone.inputs, labels=alone.labels, num_items_in_batch=1).loss
        total, targets = total + loss.item(), targets + alone.targets
    assert losses(tmp_path)[0][1] == pytest.approx(total / targets, abs=1e-9)


def test_activation_checkpointing_changes_nothing(tmp_path: Path) -> None:
    for checkpointed in ("true", "false"):
        wanted = recipe(f"compute.checkpoint_activations={checkpointed}", "optim.steps=2")
        train(wanted, tmp_path / checkpointed)
    assert largest_difference(tmp_path / "true", tmp_path / "false") < 1e-9


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiling_changes_nothing(tmp_path: Path) -> None:
    """But for rounding: Llama's norms compute in float32, and fused they round elsewhere. In
    processes of their own, for the compiler warns of deprecations of its own making.
    """
    for compiled in ("true", "false"):
        done = launch(tmp_path / compiled, f"compute.compile={compiled}", "optim.steps=1")
        assert done.returncode == 0, done.stderr
    assert largest_difference(tmp_path / "true", tmp_path / "false") < 1e-5


def test_frozen_parameters_stay_bit_for_bit(tmp_path: Path) -> None:
    wanted = recipe(train={"abstractor": {"lr": 1e-2}})
    train(wanted, tmp_path)
    before, after = open_owl(wanted)[0].state_dict(), weights(tmp_path)
    for name, tensor in after.items():
        moved = not torch.equal(before[name], tensor)
        assert moved == (name.startswith("model.abstractor.") and "pos_embed" not in name), name


def test_frozen_vision_keeps_nothing_for_a_backward() -> None:
    owl, _ = open_owl(recipe())
    owl.model.vision.requires_grad_(False)
    held: list[torch.Tensor] = []
    owl.model.vision.layers[0].register_forward_hook(lambda m, a, out: held.append(out))
    micro = ListBatches(mixed_rows(owl), 4, 4, 0, 1).step(0)[0]
    calls = sorted(calls_of(owl, micro.inputs))
    Objective(owl.train())(micro.inputs, micro.labels, calls, 1).backward()
    assert held and not any(tensor.requires_grad for tensor in held)


def test_small_updates_survive_bfloat16(tmp_path: Path) -> None:
    """The trained values are float32: steps far below the spacing of bfloat16 add up."""
    train_at = {"abstractor": {"lr": 1e-6}}
    train(recipe("compute.dtype=bfloat16", "optim.steps=4", train=train_at), tmp_path)
    [saved] = checkpoint.complete(tmp_path / loop.CHECKPOINTS)
    start = open_owl(recipe())[0].get_parameter("model.abstractor.visual_fc.weight")
    values = torch.zeros_like(start, dtype=torch.float32)
    from mplug_owl.train.parallel import join

    checkpoint.restore(saved, {"trained": {"model.abstractor.visual_fc.weight": values}}, join())
    moved = (values - start.detach().float()).abs()
    assert 1e-7 < moved.max() < 1e-5
    assert weights(tmp_path)["model.abstractor.visual_fc.weight"].dtype == torch.bfloat16


def in_memory(rows: list[Any]) -> Any:
    def open_rows(wanted: Recipe, processor: Any, world: Any, held_out: bool) -> Any:
        batch = wanted.batch
        return None if held_out else ListBatches(rows, batch.size, batch.micro, 0, 1)

    return open_rows


def test_a_window_without_targets_teaches_nothing_and_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    owl, _ = open_owl(recipe())
    rows = [(f"mute {i}", row) for i, (_, row) in enumerate(mixed_rows(owl, 8))]
    train(recipe("optim.steps=2"), tmp_path, in_memory(rows))
    before = owl.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path).items())
    assert losses(tmp_path) == [(1, None, None), (2, None, None)]
    assert "step 1 has nothing to learn from: mute 0, mute 1" in capfd.readouterr().err


def test_a_window_of_text_alone_trains(tmp_path: Path) -> None:
    owl, _ = open_owl(recipe())
    rows = [(name, row) for name, row in mixed_rows(owl) if not row.images and not row.videos]
    train(recipe("optim.steps=2"), tmp_path, in_memory(rows))
    assert len(losses(tmp_path)) == 2


def test_text_alone_teaches_nothing_to_what_only_sees(tmp_path: Path) -> None:
    """With only f_V and f_K in training a text has a loss but no gradient: the run goes on, nothing moves."""
    only_eyes = recipe("optim.steps=2", train={"abstractor": {"lr": 1e-3}})
    owl, _ = open_owl(only_eyes)
    rows = [(name, row) for name, row in mixed_rows(owl) if not row.images and not row.videos]
    train(only_eyes, tmp_path, in_memory(rows))
    assert len(losses(tmp_path)) == 2
    before, after = owl.state_dict(), weights(tmp_path)
    assert all(torch.equal(before[name].to(tensor.dtype), tensor) for name, tensor in after.items())


def test_a_number_that_is_not_finite_stops_the_run_and_names_the_samples(tmp_path: Path) -> None:
    owl, _ = open_owl(recipe())
    rows = mixed_rows(owl, 16)
    name, broken = next((n, row) for n, row in rows[8:] if row.images)
    broken.images[0][0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=rf"step 2: loss nan.*Samples: .*{name}") as caught:
        train(recipe("batch.micro=1", "keep.every=1"), tmp_path, in_memory(rows))
    assert str(caught.value).count("row ") == 1
    assert [step for step, *_ in losses(tmp_path)] == [1]
    assert [s.step for s in checkpoint.complete(tmp_path / loop.CHECKPOINTS)] == [1]


def interrupted(at: int) -> Any:
    """The usual data; SIGTERM arrives while step `at` is loaded."""

    def open_rows(*arguments: Any) -> Any:
        batches = open_data(*arguments)

        def before(step: int) -> None:
            if step == at:
                os.kill(os.getpid(), signal.SIGTERM)

        if batches is not None:
            batches.before = before
        return batches

    return open_rows


@pytest.mark.parametrize("family", ["tiny-owl2", "tiny-owl-video"])
def test_a_resumed_run_equals_one_that_never_stopped(family: str, tmp_path: Path) -> None:
    wanted = recipe(f"init.family={family}", "compute.dtype=bfloat16", "optim.steps=5", "keep.asynchronous=true")
    train(wanted, tmp_path / "whole")
    first = train(wanted, tmp_path / "parts", interrupted(2))
    assert (first.step, first.stopped, first.saved) == (3, True, None)
    second = train(wanted, tmp_path / "parts")
    assert (second.step, second.stopped) == (5, False)
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") == 0.0


def test_lora_with_dropout_resumes_bit_for_bit_and_leaves_an_adapter(tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.3}
    wanted = recipe(lora=lora, train={"lora": {"lr": 1e-2}, "abstractor": {"lr": 1e-2}})
    train(wanted, tmp_path / "whole")
    train(wanted, tmp_path / "parts", interrupted(1))
    saved = train(wanted, tmp_path / "parts").saved
    assert saved == tmp_path / "parts" / "adapter"
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    start, _ = open_owl(wanted)
    adapted = apply_adapter(open_owl(wanted)[0], saved, name="tiny-owl2")
    micro = ListBatches(mixed_rows(start), 4, 4, 0, 1).step(0)[0]
    with torch.no_grad():
        assert not torch.allclose(start(**micro.inputs).logits, adapted(**micro.inputs).logits)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train(recipe("optim.steps=2"), tmp_path)
    before = losses(tmp_path)
    assert train(recipe("optim.steps=2"), tmp_path).step == 2
    assert losses(tmp_path) == before


def test_another_recipe_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    train(recipe("optim.steps=2"), tmp_path)
    with pytest.raises(ConfigError, match="optim="):
        train(recipe("optim.steps=3"), tmp_path)
    with pytest.raises(ConfigError, match="step 2; give a new folder"):
        train(recipe("optim.steps=2"), tmp_path, resume=False)
    train(recipe("optim.steps=2", "log.every=5", "keep.last=1"), tmp_path)


def test_another_base_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    train(recipe(), tmp_path, interrupted(1))

    def other(wanted: Recipe) -> Any:
        owl, processor = open_owl(wanted)
        with torch.no_grad():
            owl.lm_head.weight.mul_(2)
        return owl, processor

    with pytest.raises(ConfigError, match="start from the same owl"):
        loop.run(recipe(), tmp_path, open_owl=other, open_data=open_data)


def test_the_held_out_loss_is_that_of_the_model_and_leaves_the_run_alone(tmp_path: Path) -> None:
    held = ["data.held_out=[{path='x'}]", "log.held_out_every=2", "log.samples_every=4"]
    train(recipe(), tmp_path / "without")
    train(recipe(*held), tmp_path / "with")
    assert largest_difference(tmp_path / "with", tmp_path / "without") == 0.0
    records = [json.loads(x) for x in (tmp_path / "with/metrics.jsonl").read_text().splitlines()]
    found = {r["step"]: r["held_out_loss"] for r in records if "held_out_loss" in r}
    assert found.keys() == {2, 4}
    owl, _ = load(tmp_path / "with/final", device="cpu", dtype=torch.float64)
    [micro] = ListBatches(mixed_rows(owl, 4, seed=2), 4, 4, 0, 1).step(0)
    with torch.no_grad():
        loss = owl.eval()(**micro.inputs, labels=micro.labels).loss
    # Held-out batches are as large as training's, so each of the 4 rows comes twice.
    assert found[4] == pytest.approx(float(loss), abs=1e-9)
    answers = [r["sample"] for r in records if "sample" in r]
    assert answers and answers[0].keys() == {"prompt", "wanted", "given"}


def test_the_recipe_is_written_first_and_whole(tmp_path: Path) -> None:
    def fails(*arguments: Any) -> Any:
        raise DataError("no data today")

    with pytest.raises(DataError, match="today"):
        train(recipe(), tmp_path, fails)
    written = json.loads((tmp_path / "recipe.json").read_text())
    assert written["optim"]["betas"] == [0.9, 0.999]


def test_without_sources_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources is empty"):
        train(recipe(), tmp_path, lambda *arguments: None)


def test_a_tracker_that_is_not_installed_stops_before_the_first_step(tmp_path: Path) -> None:
    try:
        import wandb  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install wandb"):
            train(recipe('log.trackers=["wandb"]'), tmp_path)
        assert not (tmp_path / "metrics.jsonl").exists()
    else:
        pytest.skip("wandb is installed")


def test_a_failed_last_save_is_an_error(tmp_path: Path) -> None:
    wanted = recipe("optim.steps=1")

    class Blocks(ListBatches):
        def step(self, step: int) -> Any:
            # A file where the checkpoint's folder must go.
            (tmp_path / loop.CHECKPOINTS / "step-00000001.partial").write_text("in the way")
            return super().step(step)

    owl, _ = open_owl(wanted)
    rows = mixed_rows(owl)

    def blocked(*arguments: Any) -> Any:
        return None if arguments[-1] else Blocks(rows, 8, 2, 0, 1)

    with pytest.raises(CheckpointError, match="could not be written"):
        train(wanted, tmp_path, blocked)
