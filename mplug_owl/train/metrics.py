"""What a run says while it goes: metrics.jsonl, a progress bar or lines, and trackers if asked for.

Every record is one JSON line with its step, written before the next step begins; a resumed run cuts the file back to
its checkpoint, so no step is ever there twice. Nothing here computes a metric.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mplug_owl.errors import ConfigError

Record = dict[str, Any]
Tracker = Callable[[Record, int], None]
FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0


def cut_back(path: Path, step: int) -> None:
    """Drop all records after `step`, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] <= step:
            kept.append(line + "\n")
    shorter = path.with_suffix(".partial")
    shorter.write_text("".join(kept), encoding="utf-8")
    os.replace(shorter, path)


def memory_gib(device: torch.device) -> float:
    """Most memory held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Metrics:
    """Where the records of a run go; on every rank but the first, nowhere."""

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        settings: Mapping[str, Any],
        steps: int,
        step: int = 0,
        trackers: Sequence[str] = (),
        is_first: bool = True,
    ) -> None:
        self.is_first, self.steps, self.last_line = is_first, steps, 0.0
        self.trackers: list[Tracker] = []
        if not is_first:
            return
        # Trackers first: one that is not installed must stop the run before anything is written.
        self.trackers = [TRACKERS[t](out, name, dict(settings), step) for t in trackers]
        self.path = out / FILE
        cut_back(self.path, step)
        self.file = self.path.open("a", encoding="utf-8")
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """One record of `step`; its numbers go to the trackers too."""
        if not self.is_first:
            return
        self.file.write(json.dumps({"step": step, **record}) + "\n")
        self.file.flush()
        numbers = {
            name: value
            for name, value in record.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in self.trackers:
            tracker(numbers, step)

    def progress(self, step: int, record: Mapping[str, Any]) -> None:
        """Show a step to whoever watches: a bar on a terminal, a line now and then elsewhere."""
        if not self.is_first:
            return
        told = summary(record)
        if not self.bar.disable:
            self.bar.set_postfix_str(told, refresh=False)
            self.bar.update(step - self.bar.n)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES or step == self.steps:
            self.last_line = time.monotonic()
            self.say(f"step {step}/{self.steps}  {told}")

    def say(self, text: str) -> None:
        if self.is_first:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        if self.is_first:
            self.bar.close()
            self.file.close()


def summary(record: Mapping[str, Any]) -> str:
    """A record in one line."""
    loss = record.get("loss")
    parts = ["no target" if loss is None else f"loss {loss:.4f}"]
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.0%}")
    parts.append(f"data wait {record['data_wait']:.0%}")
    parts.append(f"{record['memory_gib']:.1f} GiB")
    return "  ".join(parts)


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"log.trackers names {package}, which is not installed: pip install {package}, or leave it out"
        ) from None


def _tensorboard(out: Path, name: str, settings: Record, step: int) -> Tracker:
    _need("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(numbers: Record, at: int) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, at)
        writer.flush()

    return write


def _trackio(out: Path, name: str, settings: Record, step: int) -> Tracker:
    trackio = _need("trackio", "trackio")
    trackio.init(project=name, name=out.name, config=settings, resume="allow")
    return lambda numbers, at: trackio.log(numbers, step=at)


def _wandb(out: Path, name: str, settings: Record, step: int) -> Tracker:
    wandb = _need("wandb", "wandb")
    wandb.init(project=name, name=out.name, config=settings, dir=str(out), resume="allow")
    return lambda numbers, at: wandb.log(numbers, step=at)


TRACKERS: dict[str, Callable[[Path, str, Record, int], Tracker]] = {
    "tensorboard": _tensorboard,
    "trackio": _trackio,
    "wandb": _wandb,
}
