"""A plan as text for people: four tables that fit 100 columns.

It formats what it is given and computes nothing but sums and shares.
"""

import textwrap
from typing import TYPE_CHECKING

from mplug_owl.train.rehearsal import Work

if TYPE_CHECKING:
    from mplug_owl.train.plan import Plan

GIB = 2**30
LABEL = 32
WIDTH = 100


def table(plan: "Plan") -> str:
    sections = (_head, _modules, _work, _memory, _run)
    return "\n\n".join("\n".join(section(plan)) for section in sections)


def _row(label: str, *values: str, note: str = "") -> str:
    return (f"{label:<{LABEL}}" + "".join(f"{value:>17}" for value in values) + note).rstrip()


def _head(plan: "Plan") -> list[str]:
    shape, setting = plan.shape, plan.setting
    what = "pictures" if shape.frames == 1 else f"videos of {shape.frames} frames"
    together = f", {plan.parallel}" if setting.gpus > 1 else ""
    return [
        f"{plan.recipe} on {setting.gpus} x {setting.gpu}{together}, {plan.dtype}",
        f"a step: {plan.batch} rows; on each GPU {plan.accumulate} micro-batches of {shape.rows}",
        f"a row: {shape.length} positions{', packed' if shape.packed else ''}, with "
        f"{shape.media} {what} (an upper bound: rows are taken as full)",
        *(textwrap.wrap(f"note: {plan.assumed}", WIDTH) if plan.assumed else ()),
    ]


def _modules(plan: "Plan") -> list[str]:
    def row(name: str, parameters: int, trained: int) -> str:
        share = f"{trained / parameters:.2%}" if parameters else "-"
        return _row(f"  {name}", f"{parameters:,}", f"{trained:,}", share)

    modules = plan.modules.values()
    return [
        _row("parameters", "all", "trained", "share"),
        *(row(name, m.parameters, m.trained) for name, m in plan.modules.items()),
        row("all", sum(m.parameters for m in modules), sum(m.trained for m in modules)),
    ]


def _work(plan: "Plan") -> list[str]:
    def row(name: str, work: Work) -> str:
        counts = (work.forward, work.backward, work.recompute)
        return _row(f"  {name}", *(f"{count / 1e12:,.2f}" for count in counts))

    return [
        _row("TFLOP of a step", "forward", "backward", "recomputed"),
        *(row(name, work) for name, work in plan.flops.items()),
        row("all", sum(plan.flops.values(), Work())),
    ]


def _memory(plan: "Plan") -> list[str]:
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    return [
        _row("memory of one GPU", "GiB"),
        *(_row(f"  {kind}", _gib(size)) for kind, size in plan.memory.items()),
        _row("  all", _gib(plan.total_memory), note=f"   {verdict}: {plan.available / GIB:,.1f} GiB for tensors"),
        *_advice(plan),
    ]


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"


def _advice(plan: "Plan") -> list[str]:
    remedy = plan.remedy
    if remedy is None:
        return []
    more = (f"--gpus {remedy.gpus}",) if remedy.gpus > plan.setting.gpus else ()
    changes = " ".join((*more, *remedy.overrides))
    hours = "" if remedy.hours is None else f", {remedy.hours:,.1f} h"
    if remedy.fits:
        lines = ["", f"to make it fit ({_gib(remedy.memory)} GiB{hours}), add:", f"  {changes}"]
    else:
        lines = ["", f"not even this makes it fit ({_gib(remedy.memory)} GiB):", f"  {changes}"]
        lines.append("a smaller data.max_length would help")
    if more and plan.modules["language"].trained:
        lines.append("or train.lora in place of train.language, as owl2-instruct-lora has it")
    return lines


def _run(plan: "Plan") -> list[str]:
    again = any(work.recompute for work in plan.flops.values())
    speed = f"   at {plan.setting.mfu:.0%} MFU" + (", recomputation added" if again else "")
    rate = plan.batch * plan.shape.length / plan.step_seconds
    lines = [
        "run, at most: every sample counted as a full row" if plan.shape.packed else "run",
        _row("  seconds a step", f"{plan.step_seconds:,.2f}", note=speed),
        _row("  positions a second", f"{rate:,.0f}"),
    ]
    if plan.steps is None or plan.hours is None:
        return [*lines, "  the recipe counts in epochs: give --epoch-rows for totals and hours"]
    unit = "   (each picture or video one sample)" if plan.shape.packed else ""
    gpu_hours = f"   {plan.hours * plan.setting.gpus:,.0f} GPU-hours"
    return [
        *lines,
        _row("  steps", f"{plan.steps:,}"),
        _row("  samples", f"{plan.samples:,}", note=unit),
        _row("  positions", f"{plan.positions:,}", note="   media included"),
        _row("  pictures and videos", f"{plan.media:,}"),
        _row("  FLOP", f"{plan.steps * plan.step_flops:.3g}", note="   without recomputation"),
        _row("  hours", f"{plan.hours:,.1f}", note=gpu_hours),
    ]
