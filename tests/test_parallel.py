"""Several processes: the same numbers as one, and no rank that waits for ever."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mplug_owl.train import checkpoint
from train_fixtures import command, environment, largest_difference, launch, losses

pytestmark = pytest.mark.slow

# With micro-batches of one row, ranks hold text beside pictures beside videos in nearly every pass.
ROUGH = ("batch.micro=1", "optim.steps=3")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert launch(out, "optim.steps=3").returncode == 0
    return out


@pytest.mark.parametrize(
    "settings",
    [
        ("compute.parallel=ddp",),
        ("compute.parallel=fsdp",),
        ("compute.parallel=fsdp", "compute.checkpoint_activations=true"),
        ("compute.parallel=hsdp", "compute.shard_group=1"),
        ("compute.parallel=hsdp", "compute.shard_group=2"),
    ],
    ids=" ".join,
)
def test_two_ranks_learn_what_one_learns(settings: tuple[str, ...], alone: Path, tmp_path: Path) -> None:
    done = launch(tmp_path, *ROUGH, *settings, ranks=2)
    assert done.returncode == 0, done.stderr
    assert largest_difference(alone, tmp_path) < 1e-9


@pytest.mark.parametrize("family", ["tiny-owl", "tiny-owl-video", "tiny-owl-bloomz", "tiny-owl2.1"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_family_can_be_spread(family: str, parallel: str, tmp_path: Path) -> None:
    """The video family sees clips of several lengths, bloomz has tied weights."""
    which = f"init.family={family}"
    assert launch(tmp_path / "one", which, "optim.steps=3").returncode == 0
    done = launch(tmp_path / "two", which, *ROUGH, f"compute.parallel={parallel}", ranks=2)
    assert done.returncode == 0, done.stderr
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-9


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_frozen_parts_and_bfloat16_can_be_spread(parallel: str, tmp_path: Path) -> None:
    settings = ("train={abstractor={lr=1e-3}, visual={lr=1e-3}}", "compute.dtype=bfloat16", "optim.steps=3")
    assert launch(tmp_path / "one", *settings).returncode == 0
    done = launch(tmp_path / "two", *settings, f"compute.parallel={parallel}", ranks=2)
    assert done.returncode == 0, done.stderr
    for (_, loss, _), (_, other, _) in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert loss == pytest.approx(other, rel=2e-2)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_held_out_rows_and_answers_with_two_ranks(parallel: str, alone: Path, tmp_path: Path) -> None:
    held = ("data.held_out=[{path='x'}]", "log.held_out_every=2", "log.samples_every=2")
    done = launch(tmp_path, *ROUGH, *held, f"compute.parallel={parallel}", ranks=2)
    assert done.returncode == 0, done.stderr
    assert largest_difference(alone, tmp_path) < 1e-9
    records = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("held_out_loss" in r for r in records) == 2
    assert sum("sample" in r for r in records) >= 2


def test_a_run_moves_between_one_and_two_ranks(tmp_path: Path) -> None:
    """SIGTERM on one of two ranks stops both after the same step; another number goes on."""
    settings = ("optim.steps=6", "compute.parallel=fsdp")
    assert launch(tmp_path / "whole", *settings).returncode == 0
    for ranks, stop in ((2, "1"), (1, "3")):
        parts = tmp_path / "parts"
        assert launch(parts, *settings, ranks=ranks, OWL_TEST_TERM=stop).returncode != 0
        assert checkpoint.complete(parts / "checkpoints")[-1].step == int(stop) + 1
    last = launch(tmp_path / "parts", *settings, "compute.parallel=ddp", ranks=2)
    assert last.returncode == 0, last.stderr
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") < 1e-9


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_number_that_is_not_finite_stops_all_ranks(parallel: str, tmp_path: Path) -> None:
    broken = "row 10"  # pictures, in the second step; only the first rank shows them
    done = launch(tmp_path, *ROUGH, "keep.every=1", f"compute.parallel={parallel}", ranks=2, OWL_TEST_NAN=broken)
    assert done.returncode not in (0, 143)
    assert "step 2: loss nan" in done.stderr
    assert f"Samples: {broken}. Look" in done.stderr
    assert [s.step for s in checkpoint.complete(tmp_path / "checkpoints")] == [1]


def test_a_dead_rank_ends_the_run_and_nothing_is_lost(tmp_path: Path) -> None:
    settings = ("optim.steps=400", "keep.every=1", "compute.parallel=fsdp")
    process = subprocess.Popen(
        command(tmp_path, *settings, ranks=2), env=environment(), stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "checkpoints"
    while not checkpoint_steps(folder) and process.poll() is None:
        time.sleep(0.05)
    os.kill(a_rank_of(process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "SIGKILL" in said or "Signal 9" in said
    found = checkpoint.complete(folder)
    assert found
    again = launch(tmp_path, *settings, ranks=2, OWL_TEST_TERM=str(found[-1].step))
    assert f"going on from step {found[-1].step}" in again.stderr


def checkpoint_steps(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if (path / checkpoint.MARKER).is_file()]


def a_rank_of(torchrun: int) -> int:
    """The last of its children that runs a rank."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return max(pid for pid, line in lines.items() if b"train_fixtures.py" in line)
