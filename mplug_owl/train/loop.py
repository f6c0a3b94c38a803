"""The training run, to be read from top to bottom: set up, restore, then step after step.

A step is a window of micro-batches on all ranks. Its loss is the mean over all supervised tokens of the window,
counted before the first backward, so it is the same however the window was cut. Random numbers of a step are seeded by
its number, so the state of a run is its trained tensors, its optimizer and one integer. What trains is `stages`'
business, who holds it `parallel`'s, what a batch is the data's.
"""

import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mplug_owl import settings
from mplug_owl.errors import ConfigError, DataError, OwlError
from mplug_owl.models.adapters import Identity
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train import checkpoint, heldout, opening, optim, results, stages
from mplug_owl.train.checkpoint import Checkpoints, Saved
from mplug_owl.train.metrics import Metrics, memory_gib
from mplug_owl.train.parallel import World, arrange, joined
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.window import Batches, Window, agree

CHECKPOINTS = "checkpoints"
# Sections of a recipe that may change between two parts of a run: they do not change its numbers.
MAY_CHANGE = ("keep", "log", "compute")


@dataclass(frozen=True)
class Speed:
    """What MFU is measured against; both from the plan."""

    flops_per_token: float
    peak: float
    """FLOP/s of one device."""


@dataclass(frozen=True)
class Result:
    step: int
    """Steps done, those before a restart included."""
    stopped: bool
    """A signal ended the run early; the same command goes on."""
    saved: Path | None
    """The finished owl or adapter; None where the run was stopped."""


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = True,
    open_owl: Callable[[Recipe], tuple[OwlForConditionalGeneration, OwlProcessor]] | None = None,
    open_data: Callable[[Recipe, OwlProcessor, World, bool], Batches | None] | None = None,
    speed: Speed | None = None,
) -> Result:
    """Carry out a recipe in folder `out`, going on from its newest complete checkpoint.

    `open_owl` and `open_data` replace what the recipe names; the last argument of `open_data` asks for the held-out
    data. Under torchrun every process calls this.

    Raises: ConfigError, DataError, CheckpointError; the newest checkpoint is then still whole.
    """
    with joined() as world:
        training = Training(
            recipe, Path(out), world, resume, open_owl or opening.open_owl, open_data or opening.open_data, speed
        )
        return training.run()


class Training:
    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        world: World,
        resume: bool,
        open_owl: Callable[[Recipe], tuple[OwlForConditionalGeneration, OwlProcessor]],
        open_data: Callable[[Recipe, OwlProcessor, World, bool], Batches | None],
        speed: Speed | None,
    ) -> None:
        self.recipe, self.out, self.world, self.speed = recipe, out, world, speed
        saved = world.broadcast(self.earlier(resume) if world.is_first else None)
        if isinstance(saved, OwlError):
            raise saved
        self.step = saved.step if saved else 0
        self.seen = {"tokens": 0, "targets": 0, "images": 0, "samples": 0}
        self.must_stop = False

        torch.manual_seed(recipe.seed)  # adapters and parts without a source start random
        owl, self.processor, self.base = opening.on_all_ranks(recipe, open_owl, world)
        groups = stages.prepare(owl, recipe)
        overview = stages.table(owl)
        self.spread = arrange(owl, groups, recipe.compute, world)
        self.owl = self.spread.owl
        self.optimizer = optim.adamw(self.spread.groups, recipe.optim)
        self.floor = optim.floor_share(self.optimizer.param_groups, recipe.optim)

        data = open_data(recipe, self.processor, world, False)
        if data is None:
            raise ConfigError("data.sources is empty; expected at least one source to train on")
        self.data = data
        self.held_out = open_data(recipe, self.processor, world, True)
        epochs = recipe.optim.epochs or 0
        self.steps = recipe.optim.steps or math.ceil(epochs * data.steps_per_epoch)

        self.metrics = Metrics(
            out,
            name=recipe.name,
            settings=dataclasses.asdict(recipe),
            steps=self.steps,
            step=self.step,
            trackers=recipe.log.trackers,
            is_first=world.is_first,
        )
        self.checkpoints = Checkpoints(out / CHECKPOINTS, recipe.keep, world, self.metrics.say)
        self.metrics.say(overview)
        self.saved = saved
        self.saved_step = saved.step if saved else None

    # ---- before the first step ---------------------------------------------------------------

    def earlier(self, resume: bool) -> Saved | OwlError | None:
        """The checkpoint to go on from; on the first rank only, so an error is handed to all."""
        found = checkpoint.complete(self.out / CHECKPOINTS)
        if found and not resume:
            return ConfigError(f"{self.out} holds a run at step {found[-1].step}; give a new folder, or go on with it")
        now = json.loads(settings.dump(self.recipe))
        if found:
            then = found[-1].note["recipe"]
            changed = [k for k in now if k not in MAY_CHANGE and now[k] != then.get(k)]
            if changed:
                key = changed[0]
                return ConfigError(
                    f"{self.out} holds a run with {key}={then.get(key)!r}, but now {key}="
                    f"{now[key]!r}: give a new folder, or set it back"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "recipe.json").write_text(settings.dump(self.recipe), encoding="utf-8")
        return found[-1] if found else None

    def tensors(self) -> dict[str, Any]:
        """All that a checkpoint holds in tensors."""
        trained = {name: tensor.detach() for name, tensor in self.spread.trained.items()}
        return {"trained": trained, "adam": optim.state(self.optimizer, self.spread.trained)}

    def restore(self, saved: Saved) -> None:
        then = Identity(**saved.note["base"])
        if (then.config, then.content) != (self.base.config, self.base.content):
            raise ConfigError(
                f"{saved.path} was trained from {then}, but init gives {self.base}: start from the same owl"
            )
        tensors = self.tensors()
        checkpoint.restore(saved, tensors, self.world)
        # Loading fills tensors in place, but may put a new one in the dictionary.
        for name, parameter in self.spread.trained.items():
            self.optimizer.state[parameter] = tensors["adam"][name]
        self.spread.moved()
        self.seen = dict(saved.note["seen"])
        self.metrics.say(f"going on from step {saved.step} ({saved.path})")

    # ---- the steps ---------------------------------------------------------------------------

    def run(self) -> Result:
        before = self._listen()
        try:
            if self.saved:
                self.restore(self.saved)
            while self.step < self.steps and not self.must_stop:
                self.one_step()
                self.checkpoints.poll()
                if self.step % self.recipe.keep.every == 0 and self.step < self.steps:
                    self.save()
                if not self.must_stop:
                    self.evaluate()
            return self.end()
        finally:
            with suppress(OwlError):
                self.checkpoints.finish()
            self.data.close()
            self.metrics.close()
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def one_step(self) -> None:
        started, waited = time.perf_counter(), self.data.wait_seconds
        window = agree(self.data, self.step, self.owl, self.world)
        loss = norm = None
        if window.counts["targets"]:
            loss, norm = self.learn(window)
        told = self.world.gather(self.must_stop)
        self.must_stop = any(told)  # one rank's signal stops all after the same step
        self.step += 1
        for name, count in window.counts.items():
            self.seen[name] += count
        seconds = time.perf_counter() - started
        record = {
            "loss": loss,
            "grad_norm": norm,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            **{f"seen_{name}": count for name, count in self.seen.items()},
            "targets": window.counts["targets"],
            "seconds": seconds,
            "data_wait": (self.data.wait_seconds - waited) / seconds,
            "tokens_per_second": window.counts["tokens"] / seconds,
            "mfu": self.mfu(window.counts["tokens"] / seconds),
            "memory_gib": memory_gib(self.world.device),
        }
        if self.step % self.recipe.log.every == 0 or self.step == self.steps or loss is None:
            self.metrics.write(self.step, record)
        if loss is None:
            self.metrics.say(f"step {self.step} has nothing to learn from: {_named(window.ids)}")
        self.metrics.progress(self.step, record)

    def learn(self, window: Window) -> tuple[float, float]:
        """Forward, backward, clip, step; the loss of the window and the norm of its gradient."""
        torch.manual_seed(_mixed(self.recipe.seed, self.step, self.world.rank))
        self.spread.forget()
        losses: dict[int, torch.Tensor] = {}
        useful = [i for i, targets in enumerate(window.micro_targets) if targets]
        for i in useful:
            micro = window.rows[i].to(self.world.device)
            loss = self.spread.objective(micro.inputs, micro.labels, window.calls[i], window.counts["targets"])
            self.spread.backward(loss, is_last=i == useful[-1])
            losses[i] = loss.detach()
        self.spread.meet()
        norm = optim.clip(list(self.spread.trained.values()), self.recipe.optim.clip)
        loss = self.judge(window, {i: float(value) for i, value in losses.items()}, norm)
        optim.set_rate(self.optimizer, optim.rate(self.step, self.steps, self.recipe.optim, self.floor))
        self.optimizer.step()
        self.spread.moved()
        return loss, norm

    def judge(self, window: Window, losses: Mapping[int, float], norm: float) -> float:
        """The loss of the window over all ranks; stops the run where a number is not finite."""
        broken = [i for i, value in losses.items() if not math.isfinite(value)]
        ids = [name for i in broken for name in window.rows[i].ids]
        everybody = self.world.gather((sum(losses.values()), ids))
        loss = sum(value for value, _ in everybody)
        if math.isfinite(loss) and math.isfinite(norm):
            return loss
        blamed = [name for _, names in everybody for name in names]
        if not blamed:  # only the gradient: any row of the window may have made it
            blamed = [name for names in self.world.gather(window.ids) for name in names]
        raise DataError(
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}; nothing was learnt from it. "
            f"Samples: {_named(blamed)}. Look at them with `owl doctor`, or lower the learning rate"
        )

    def mfu(self, tokens_per_second: float) -> float | None:
        if self.speed is None:
            return None
        peak = self.speed.peak * self.world.size
        return tokens_per_second * self.speed.flops_per_token / peak

    # ---- between the steps -------------------------------------------------------------------

    def save(self, wait: bool = False) -> None:
        note = {
            "recipe": json.loads(settings.dump(self.recipe)),
            "base": dataclasses.asdict(self.base),
            "seen": self.seen,
            "ranks": self.world.size,
        }
        self.checkpoints.save(self.step, self.tensors(), note, wait=wait)
        self.saved_step = self.step

    def evaluate(self) -> None:
        """Held-out loss and answers, where they are due; neither touches the run's random numbers, for each step seeds
        its own.
        """
        if self.held_out is None:
            return
        log, at_end = self.recipe.log, self.step == self.steps
        if at_end or self.step % log.held_out_every == 0:
            loss = heldout.loss(self.spread, self.held_out, self.world)
            self.metrics.write(self.step, {"held_out_loss": loss})
            self.metrics.say(f"step {self.step}: held-out loss {loss:.4f}")
        speaks = self.recipe.data.learn != "places"
        if speaks and (at_end or self.step % log.samples_every == 0):
            for answer in heldout.answers(self.spread, self.held_out, self.processor, self.world):
                self.metrics.write(self.step, {"sample": dataclasses.asdict(answer)})
                self.metrics.say(f"step {self.step}: {answer}")

    def end(self) -> Result:
        if self.saved_step == self.step:
            self.checkpoints.finish()
        else:
            self.save(wait=True)
        self.checkpoints.must_have_worked()
        if self.step < self.steps:
            self.metrics.say(f"stopped at step {self.step}; the same command goes on from there")
            return Result(self.step, True, None)
        saved = results.save(self.spread, self.processor, self.recipe, self.out, self.base)
        self.metrics.say(f"done after {self.step} steps: {saved}")
        return Result(self.step, False, saved)

    def _listen(self) -> Any:
        """Let SIGTERM end the run after the step it falls into; what listened before."""
        if threading.current_thread() is not threading.main_thread():
            return None

        def hear(number: int, frame: FrameType | None) -> None:
            self.must_stop = True

        return signal.signal(signal.SIGTERM, hear)


def _named(ids: Sequence[str], most: int = 16) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more if ids else "none"


def _mixed(seed: int, step: int, rank: int) -> int:
    return ((seed << 42) ^ (step << 16) ^ rank) % 2**63
