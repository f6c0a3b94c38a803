"""Checkpoints: whole or not at all, whatever interrupts them, and exact to the bit."""

import json
import random
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mplug_owl.errors import CheckpointError
from mplug_owl.train import checkpoint
from mplug_owl.train.checkpoint import MARKER, Checkpoints, complete, restore
from mplug_owl.train.metrics import cut_back
from mplug_owl.train.parallel import World
from mplug_owl.train.recipe import Keep
from train_fixtures import command, environment, largest_difference, launch, losses

ALONE = World(0, 1, torch.device("cpu"))


def steps(folder: Path) -> list[int]:
    return [saved.step for saved in complete(folder)]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_was_saved_comes_back(asynchronous: bool, tmp_path: Path) -> None:
    tensors = {"trained": {"a": torch.randn(5)}, "adam": {"a": {"step": torch.tensor(3.0)}}}
    writer = Checkpoints(tmp_path, Keep(asynchronous=asynchronous), ALONE)
    before = tensors["trained"]["a"].clone()
    writer.save(7, tensors, {"seen": {"tokens": 9}})
    tensors["trained"]["a"].zero_()  # training goes on while the save may still be under way
    writer.finish()
    [saved] = complete(tmp_path)
    assert (saved.step, saved.note["seen"]) == (7, {"tokens": 9})
    restore(saved, tensors, ALONE)
    assert torch.equal(tensors["trained"]["a"], before)


def test_poll_gives_a_save_its_name_once_it_is_done(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path, Keep(), ALONE)
    writer.save(1, {"a": torch.ones(3)}, {})
    deadline = time.monotonic() + 30
    while not steps(tmp_path) and time.monotonic() < deadline:
        writer.poll()
    assert steps(tmp_path) == [1]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    writer = Checkpoints(tmp_path, Keep(last=2, asynchronous=False), ALONE)
    for step in (1, 2, 10):
        writer.save(step, {"a": torch.ones(3)}, {})
    assert steps(tmp_path) == [2, 10]


def test_half_a_checkpoint_is_none_and_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.partial").mkdir()
    (tmp_path / "step-00000008").mkdir()
    (tmp_path / "step-00000008" / "__0_0.distcp").write_bytes(b"x")
    assert complete(tmp_path) == []
    Checkpoints(tmp_path, Keep(), ALONE)
    assert not (tmp_path / "step-00000009.partial").exists()


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    Checkpoints(tmp_path, Keep(asynchronous=False), ALONE).save(3, {"a": torch.ones(300)}, {})
    [shard] = (tmp_path / "step-00000003").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-00000003 cannot be read.*delete that folder"):
        restore(complete(tmp_path)[0], {"a": torch.zeros(300)}, ALONE)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, Keep(asynchronous=False), ALONE).save(3, {"a": torch.ones(3)}, {})
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(complete(tmp_path)[0], {"b": torch.zeros(3)}, ALONE)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_disk_that_fills_up_leaves_the_older_checkpoint(asynchronous: bool, tmp_path: Path) -> None:
    said: list[str] = []
    writer = Checkpoints(tmp_path, Keep(asynchronous=asynchronous), ALONE, said.append)
    writer.save(1, {"a": torch.ones(10)}, {}, wait=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond it fails, really
    try:
        writer.save(2, {"a": torch.ones(1_000_000)}, {})
        writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint of step 2 could not be written" in said[0]
    assert "the newest is step 1" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    with pytest.raises(CheckpointError, match="make room"):
        writer.must_have_worked()
    writer.save(3, {"a": torch.ones(10)}, {}, wait=True)
    writer.must_have_worked()
    assert steps(tmp_path) == [1, 3]


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (1, 2, 2, 3)) + '{"step": 4')
    cut_back(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'
    cut_back(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()


SETTINGS = ("optim.steps=40", "keep.every=1", "keep.asynchronous=true", "compute.dtype=bfloat16")


@pytest.mark.slow
def test_killed_at_random_moments_the_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """Checkpoints follow each other without a pause, so most kills fall into a save."""
    assert launch(tmp_path / "whole", *SETTINGS).returncode == 0
    draw = random.Random(0)
    kills, in_a_save = 0, 0
    while kills < 5:
        folder = tmp_path / "parts" / "checkpoints"
        before = max(steps(folder), default=0)
        process = subprocess.Popen(
            command(tmp_path / "parts", *SETTINGS),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while max(steps_now(folder), default=0) < before + 2 and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        in_a_save += bool(list(folder.glob("*.partial")))
    last = launch(tmp_path / "parts", *SETTINGS)
    assert last.returncode == 0, last.stderr
    assert kills >= 3 and in_a_save >= 1
    assert largest_difference(tmp_path / "whole", tmp_path / "parts") == 0.0
    assert [step for step, *_ in losses(tmp_path / "parts")] == list(range(1, 41))


def steps_now(folder: Path) -> list[int]:
    """As `steps`, while another process renames and deletes."""
    names = [path.name for path in folder.glob("step-*") if (path / MARKER).is_file()]
    return [int(match[1]) for match in map(checkpoint.NAME.fullmatch, names) if match]
