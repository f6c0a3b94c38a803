"""Checkpoints of a run: written beside the training, whole or not at all, found again by number.

A checkpoint is a folder `step-00000100` with shards of torch.distributed.checkpoint and a marker with everything that
is no tensor. It is written under another name; the marker comes last and then the folder gets its name, so a folder
with a marker is complete, whenever the power went. Any number of ranks can open it. What the tensors mean is not known
here.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from mplug_owl.errors import CheckpointError
from mplug_owl.train.parallel import World
from mplug_owl.train.recipe import Keep

MARKER = "checkpoint.json"
NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint on disk."""

    path: Path
    step: int
    note: dict[str, Any]
    """What was written beside the tensors."""


def _quiet() -> None:
    """The library warns of a run with one process even where it was told that there is one; the warning may come from
    a thread of its own, so the filter has to stay.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def complete(folder: Path) -> list[Saved]:
    """All complete checkpoints in `folder`, oldest first."""
    found = []
    for path in folder.glob("step-*"):
        match = NAME.fullmatch(path.name)
        if match and (path / MARKER).is_file():
            note = json.loads((path / MARKER).read_text(encoding="utf-8"))
            found.append(Saved(path, int(match[1]), note))
    return sorted(found, key=lambda saved: saved.step)


def restore(saved: Saved, tensors: dict[str, Any], world: World) -> None:
    """Read a checkpoint into `tensors`, in place; each rank reads what it holds."""
    _quiet()
    try:
        load(tensors, checkpoint_id=saved.path, no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise CheckpointError(
            f"checkpoint {saved.path} cannot be read ({_reason(error)}); delete that folder to go "
            "on from the one before it"
        ) from error


class Checkpoints:
    """The checkpoints that one run writes. All ranks call the same methods at the same steps."""

    def __init__(self, folder: Path, keep: Keep, world: World, say: Callable[[str], None] = print) -> None:
        self.folder, self.keep, self.world, self.say = folder, keep, world, say
        self.under_way: tuple[Future[Any], int, dict[str, Any]] | None = None
        self.failure: str | None = None
        """Why the last save failed; None where it did not."""
        # Saves talk from a thread of their own, which must not mix with the training's talk.
        self.talk = dist.new_group(backend="gloo") if world.size > 1 else None
        if world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            for rest in folder.glob("*.partial"):
                shutil.rmtree(rest)

    def save(self, step: int, tensors: dict[str, Any], note: Mapping[str, Any], *, wait: bool = False) -> None:
        """Begin a checkpoint; training may go on once this returns. With `wait`, finish it."""
        self.finish()
        _quiet()
        try:
            future: Future[Any] = async_save(  # type: ignore[assignment]
                tensors, checkpoint_id=self._partial(step), process_group=self.talk, no_dist=self.world.size == 1
            )
        except OSError as error:  # not even the folder could be made
            future = Future()
            future.set_exception(error)
        self.under_way = (future, step, dict(note))
        if wait or not self.keep.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Give a save that has ended its name; to be called often, by any rank at any time."""
        if self.world.is_first and self.under_way and self.under_way[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait for a save under way. A failed one is reported and leaves the older ones alone."""
        if self.under_way is None:
            return
        future, step, note = self.under_way
        self.under_way = None
        error: BaseException | None = future.exception()
        if error is None and self.world.is_first:
            try:
                self._complete(step, note)
            except OSError as late:
                error = late
        self.failure = None if error is None else _reason(error)
        if error is not None and self.world.is_first:
            shutil.rmtree(self._partial(step), ignore_errors=True)
            older = complete(self.folder)
            newest = f"the newest is step {older[-1].step}" if older else "there is none yet"
            self.say(f"checkpoint of step {step} could not be written: {self.failure}; {newest}")

    def must_have_worked(self) -> None:
        """Raise where the last save failed; all ranks or none do."""
        self.failure = self.world.broadcast(self.failure)
        if self.failure:
            raise CheckpointError(
                f"the last checkpoint could not be written ({self.failure}); what {self.folder} "
                "holds is usable: make room and run the same command again"
            )

    def _partial(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.partial"

    def _complete(self, step: int, note: dict[str, Any]) -> None:
        partial, final = self._partial(step), self.folder / f"step-{step:08d}"
        with (partial / MARKER).open("w", encoding="utf-8") as stream:
            json.dump({"step": step, **note}, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        for old in complete(self.folder)[: -self.keep.last]:
            (old.path / MARKER).unlink()  # first: half a folder must not look complete
            shutil.rmtree(old.path)


def _reason(error: BaseException) -> str:
    """One line out of an error that may wrap those of several ranks."""
    inner = getattr(error, "failures", None)
    if inner:
        return _reason(next(iter(inner.values()))[0])
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
