"""The stopwatch of `owl bench`: interleaved rounds, and ratios of neighbours in time.

A ratio is the median over the rounds of times taken next to each other, so a busy machine slows both sides alike; the
machine's limits are measured in the same rounds. What is timed is not known here.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import mplug_owl
from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.errors import EvalError

MATRIX = "matrix peak"
Times = dict[str, list[float]]
"""Milliseconds of each side, one a round."""


@dataclass(frozen=True)
class Job:
    run: Callable[[], Any]
    parts: float = 1.0
    """What the time is divided by: steps, tokens, pictures, FLOPs or bytes."""

    def time(self, device: str) -> float:
        """Milliseconds of one part."""
        return milliseconds(self.run, device) / self.parts


def matrix_job(plan: Plan) -> Job:
    """A large matrix product; its time is per FLOP."""
    side = 1024 if plan.device == "cpu" else 8192
    kind: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "device": plan.device}
    left, right = torch.randn(side, side, **kind), torch.randn(side, side, **kind)
    return Job(partial(torch.mm, left, right, out=torch.empty_like(left)), 2.0 * side**3)


def interleave(jobs: Mapping[str, Job], plan: Plan, tick: Callable[[], object] = lambda: None) -> Times:
    """Times of each side after a round that only warms up.

    Each round begins with another side, so that none always runs behind the same neighbour's leavings in the caches.
    """
    names = list(jobs)
    times: Times = {name: [] for name in names}
    for turn in range(plan.rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(jobs[name].time(plan.device))
        tick()
    return {name: values[1:] for name, values in times.items()}


def check_equal(what: str, found: Mapping[str, Tensor], baseline: str, tolerance: float) -> None:
    """Raises: EvalError unless all sides found what the baseline did, up to a relative tolerance."""
    expected = found[baseline].float()
    for name, value in found.items():
        difference = float((value.float() - expected).norm() / expected.norm())
        if not difference <= tolerance:
            raise EvalError(
                f"{name} and {baseline} differ by {difference:.2g} in {what}, expected at most {tolerance:.2g}; "
                "times of different work say nothing"
            )


def milliseconds(run: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = perf_counter()
        run()
        return 1e3 * (perf_counter() - start)
    event = partial(torch.cuda.Event, enable_timing=True)
    begin, end = event(), event()
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def compare(
    what: str, times: Times, pairs: Iterable[tuple[str, str | None, float]], setting: dict[str, Any]
) -> Iterator[Measurement]:
    """A measurement of each pair: a side, what it is put beside, and how often the time of that is taken."""
    for name, baseline, amount in pairs:
        ours = times[name]
        theirs = [amount * value for value in times[baseline]] if baseline else []
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)] if baseline else []
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if ratios else []
        yield Measurement(
            what=what,
            ours=name,
            baseline=baseline,
            setting=setting,
            median_ms_ours=statistics.median(ours),
            median_ms_baseline=statistics.median(theirs) if theirs else None,
            ratio=quartiles[1] if quartiles else None,
            ratio_quartiles=(quartiles[0], quartiles[2]) if quartiles else None,
            runs=len(ours),
            load=os.getloadavg()[0],
            machine=machine(),
            versions=versions(),
            commit=commit(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@cache
def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "transformers")}
    return {**libraries, "mplug_owl": mplug_owl.__version__}


@cache
def commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "mplug_owl")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
