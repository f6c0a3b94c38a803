"""The stopwatch of `owl bench model`: interleaved rounds, and ratios of neighbours in time.

A ratio is the median over the rounds of times measured next to each other, so a busy machine slows
both sides alike; the machine's limits are measured in the same rounds. Nothing is timed before all
sides have given the same logits. What the sides are made of is the business of `sides.py`.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

import mplug_owl
from mplug_owl.bench.plan import Measurement, Plan
from mplug_owl.bench.sides import (
    LLAVA,
    build_sides,
    bytes_of_step,
    decoder_inputs,
    flops_of_prefill,
)
from mplug_owl.errors import EvalError

MATRIX, COPY = "matrix peak", "copy bandwidth"
DECODERS = (("owl", LLAVA), ("owl2", LLAVA), ("owl2", "owl"))
PAIRS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "prefill": (*DECODERS, ("owl", MATRIX), ("owl2", MATRIX)),
    "decode": (*DECODERS, ("owl", COPY), ("owl2", COPY)),
    "vision": (("owl", LLAVA), ("owl2", LLAVA)),
    "abstractor": (("owl", None), ("owl2", None)),
}
"""What is put beside what, as far as the shape has both."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest relative difference between logits of sides that compute the same thing."""


@dataclass(frozen=True)
class Job:
    run: Callable[[], Any]
    parts: float = 1.0
    """What the time is divided by: steps, FLOPs or bytes."""


def measure(plan: Plan) -> list[Measurement]:
    """Run the plan; a progress bar goes to stderr.

    Raises:
        EvalError: two sides did not compute the same thing.
    """
    torch.set_num_threads(plan.threads)
    found: list[Measurement] = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        sides = build_sides(plan)
        groups = {**decoder_jobs(sides, plan), **encoder_jobs(sides)}
        total = len(groups) * (plan.rounds + 1)
        with tqdm(total=total, desc=f"{plan.shape} {plan.dtype}", disable=None) as bar:
            for what, jobs in groups.items():
                times = interleave(jobs, plan, bar.update)
                found += compare(what, times, sides, plan)
    return found


def decoder_jobs(sides: dict[str, PreTrainedModel], plan: Plan) -> dict[str, dict[str, Job]]:
    inputs = decoder_inputs(sides, plan)
    prefill = {name: prefill_job(model, inputs[name]) for name, model in sides.items()}
    decode = {name: decode_job(model, inputs[name], plan) for name, model in sides.items()}
    for what, jobs in (("prefill", prefill), ("decode", decode)):
        check_equal(what, jobs, TOLERANCE[plan.dtype])
    return {
        "prefill": {**prefill, MATRIX: matrix_job(plan)},
        "decode": {**decode, COPY: copy_job(plan)},
    }


def prefill_job(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Job:
    """The decoder over ready embeddings, filling a cache, and the logits of the last position.

    The head is given rows without a length axis: on one position cut out of a longer run PyTorch's
    CPU kernels copy the whole head first, a cost that is not the decoder's.
    """
    decoder = model.model.language_model

    def run() -> Tensor:
        hidden = decoder(**inputs, use_cache=True).last_hidden_state
        return model.lm_head(hidden[:, -1])

    return Job(run)


def decode_job(model: PreTrainedModel, inputs: dict[str, Tensor], plan: Plan) -> Job:
    """The whole model, one token after the other, each behind the same cache."""
    past = model.model.language_model(**inputs, use_cache=True).past_key_values
    token = torch.ones(1, 1, dtype=torch.long, device=plan.device)

    def run() -> Tensor:
        for _ in range(plan.steps):
            logits = model(input_ids=token, past_key_values=past, use_cache=True).logits
            past.crop(-1)
        return logits

    return Job(run, plan.steps)


def matrix_job(plan: Plan) -> Job:
    """A large matrix product; its time is per FLOP."""
    side = 1024 if plan.device == "cpu" else 8192
    kind: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "device": plan.device}
    left, right = torch.randn(side, side, **kind), torch.randn(side, side, **kind)
    out = torch.empty(side, side, **kind)
    return Job(partial(torch.mm, left, right, out=out), 2.0 * side**3)


def copy_job(plan: Plan) -> Job:
    """A copy far larger than any cache; its time is per byte read or written."""
    count = 2**26 if plan.device == "cpu" else 2**30
    source = torch.ones(count, dtype=torch.float32, device=plan.device)
    target = torch.empty_like(source)
    return Job(partial(target.copy_, source), 2.0 * source.nbytes)


def encoder_jobs(sides: dict[str, PreTrainedModel]) -> dict[str, dict[str, Job]]:
    """Vision and abstractor, for one picture."""
    vision, abstractor = {}, {}
    for name, model in sides.items():
        encoder = model.model.vision_tower if name == LLAVA else model.model.vision
        size = encoder.config.image_size
        pixels = torch.randn(1, 3, size, size).to(encoder.device, encoder.dtype)
        vision[name] = Job(partial(encoder, pixels))
        if name != LLAVA:
            tokens = encoder(pixels).last_hidden_state
            abstractor[name] = Job(partial(model.model.abstractor, tokens))
    return {"vision": vision, "abstractor": abstractor}


def check_equal(what: str, jobs: dict[str, Job], tolerance: float) -> None:
    """Raise EvalError unless all sides give LLaVA's logits."""
    expected = jobs[LLAVA].run().float()
    for name, job in jobs.items():
        difference = float((job.run().float() - expected).norm() / expected.norm())
        if not difference <= tolerance:
            raise EvalError(
                f"{name} and {LLAVA} differ by {difference:.2g} in {what} with equal weights, "
                f"expected at most {tolerance:.2g}; times of different work say nothing"
            )


def interleave(
    jobs: dict[str, Job], plan: Plan, tick: Callable[[], object]
) -> dict[str, list[float]]:
    """Times in ms of each side, one a round, after a round that only warms up.

    Each round begins with another side, so that none always runs behind the same neighbour's
    leavings in the caches.
    """
    names = list(jobs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(plan.rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(milliseconds(jobs[name].run, plan.device) / jobs[name].parts)
        tick()
    return {name: values[1:] for name, values in times.items()}


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
    what: str, times: dict[str, list[float]], sides: dict[str, PreTrainedModel], plan: Plan
) -> Iterator[Measurement]:
    """The measurements that the times of one group make."""
    for name, baseline in PAIRS[what]:
        if name not in times or baseline not in (*times, None):
            continue
        ours = times[name]
        theirs = times[baseline] if baseline else []
        if baseline in (MATRIX, COPY):
            need = flops_of_prefill if baseline == MATRIX else bytes_of_step
            amount = need(sides[name], plan)
            theirs = [amount * value for value in theirs]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)] if baseline else []
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if ratios else []
        yield Measurement(
            what=what,
            ours=name,
            baseline=baseline,
            shape=plan.shape,
            dtype=plan.dtype,
            device=plan.device,
            threads=plan.threads,
            positions=plan.positions,
            visual=plan.visual,
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
