"""Small real training runs for the tests: rows in memory, tiny owls, and a process to run them in.

`python tests/train_fixtures.py OUT name=value ...` is one run (a rank of one, under torchrun), so
tests can stop, kill and starve it.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mplug_owl import settings
from mplug_owl.data.loader import MicroBatch
from mplug_owl.models.families import FAMILIES, make_processor
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.models.tokenizers import byte_tokenizer
from mplug_owl.train.parallel import World
from mplug_owl.train.recipe import Recipe
from owls import Row, Rows, batch, random_owl

ALL = {"vision": {"lr": 1e-3}, "abstractor": {"lr": 1e-3}, "visual": {"lr": 1e-3}}
BASE: dict[str, Any] = {
    "name": "test",
    "stage": "pretrain",
    "source": "a test",
    "train": {**ALL, "language": {"lr": 1e-3, "weight_decay": 0.1}},
    "init": {"family": "tiny-owl2"},
    "optim": {"steps": 4, "warmup_steps": 2},
    "batch": {"size": 8, "micro": 2},
    "compute": {"dtype": "float64"},
    "keep": {"every": 1000, "asynchronous": False},
    "log": {"held_out_every": 1000, "samples_every": 1000},
}
NOT_ADAPTIVE = ("tiny-owl", "tiny-owl-video", "tiny-owl-bloomz")
ROWS = 40


def recipe(*overrides: str, **sections: Any) -> Recipe:
    tree = {**BASE, "train": dict(BASE["train"])}
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    tree.update(sections)
    for override in overrides:
        settings.apply_override(tree, override)
    if tree["init"]["family"] in NOT_ADAPTIVE:
        tree["train"].pop("visual", None)
    return settings.build(Recipe, tree)


def open_owl(wanted: Recipe) -> tuple[OwlForConditionalGeneration, OwlProcessor]:
    name = wanted.init.family
    owl = random_owl(name, dtype=torch.float64)
    row = FAMILIES[name]
    return owl, make_processor(owl.config, byte_tokenizer(), row.prompt, row.aspect)


class ListBatches:
    """Rows in memory as the batches of a run, by the same rules as the data's own loader."""

    def __init__(
        self,
        rows: Sequence[tuple[str, Row]],
        size: int,
        micro: int,
        rank: int,
        world: int,
        before: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.rows, self.size, self.micro, self.rank, self.world = rows, size, micro, rank, world
        self.steps_per_epoch = math.ceil(len(rows) / size)
        self.wait_seconds = 0.0
        self.before = before

    def step(self, step: int) -> list[MicroBatch]:
        self.before(step)
        numbers = range(step * self.size, (step + 1) * self.size)[self.rank :: self.world]
        mine = [self.rows[number % len(self.rows)] for number in numbers]
        return [micro_batch(mine[i : i + self.micro]) for i in range(0, len(mine), self.micro)]

    def close(self) -> None:
        pass


def micro_batch(rows: Sequence[tuple[str, Row]]) -> MicroBatch:
    """The second half of the text behind the last medium is supervised; rows called "mute" are
    not.
    """
    made = batch([row for _, row in rows], side="right")
    ids, mask = made["input_ids"], made["attention_mask"]
    labels = torch.full_like(ids, -100)
    for at, (name, row) in enumerate(rows):
        if not name.startswith("mute"):
            start = len(row.ids) - 3
            labels[at, start : len(row.ids)] = ids[at, start : len(row.ids)]
    return MicroBatch(
        input_ids=ids,
        labels=labels,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        segments=mask,
        packed=False,
        pixel_values=made.get("pixel_values"),
        pixel_values_videos=made.get("pixel_values_videos"),
        ids=[name for name, _ in rows],
        targets=int((labels[:, 1:] != -100).sum()),
        tokens=int(mask.sum()),
        images=sum(len(row.images) + len(row.videos) for _, row in rows),
    )


def mixed_rows(owl: OwlForConditionalGeneration, count: int = ROWS, seed: int = 1) -> list[tuple[str, Row]]:
    """Text, one picture, two pictures, a video: of different lengths, in no particular order."""
    make = Rows(owl, seed)
    kinds: list[list[Any]] = [[9], [3, "image", 8], [12], [2, "image", 4, "image", 5]]
    kinds += [[6], [2, ("video", 2), 6], [4], [2, "image", 3, ("video", 3), 4]]
    return [(f"row {i}", make.row(*kinds[(i * 5 + i // 8) % len(kinds)])) for i in range(count)]


def open_data(wanted: Recipe, processor: OwlProcessor, world: World, held_out: bool) -> ListBatches | None:
    """40 rows. A held-out source of any name asks for 4 more. At the step that OWL_TEST_TERM
    names, the first rank gets SIGTERM; the picture of the row that OWL_TEST_NAN names is no number.
    """
    if held_out and not wanted.data.held_out:
        return None
    owl, _ = open_owl(wanted)
    rows = mixed_rows(owl, 4, seed=2) if held_out else mixed_rows(owl)
    for name, row in rows:
        if name == os.environ.get("OWL_TEST_NAN"):
            row.images[0][0, 0, 0] = float("nan")
    batches = ListBatches(rows, wanted.batch.size, wanted.batch.micro, world.rank, world.size)

    def before(step: int) -> None:
        if os.environ.get("OWL_TEST_TERM") == str(step) and world.is_first and not held_out:
            os.kill(os.getpid(), signal.SIGTERM)

    batches.before = before
    return batches


def command(out: Path, *overrides: str, ranks: int = 1) -> list[str]:
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*start, str(Path(__file__)), str(out), *overrides]


def environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **more}


def launch(out: Path, *overrides: str, ranks: int = 1, **more: str) -> "subprocess.CompletedProcess[str]":
    """A run in processes of its own; `more` are environment variables."""
    with subprocess.Popen(
        command(out, *overrides, ranks=ranks),
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # torchrun's ranks too
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


def losses(out: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of every step in metrics.jsonl."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records if "loss" in r]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    """Between two finished runs, over all weights, losses and gradient norms."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    apart = [float((a[name] - b[name]).abs().max()) for name in a]
    for (step, *ours), (other_step, *theirs) in zip(losses(one), losses(other), strict=True):
        assert step == other_step
        apart += [abs(x - y) for x, y in zip(ours, theirs, strict=True)]
    return max(apart)


def main(out: str, *overrides: str) -> int:
    from mplug_owl.train import loop

    torch.set_num_threads(1)
    result = loop.run(recipe(*overrides), out, open_owl=open_owl, open_data=open_data)
    return 143 if result.stopped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
