"""The curve of a run, or of the stages of a sequence, as a picture: loss and held-out loss over steps.

It reads metrics.jsonl, so a run can be drawn while it goes on; a resumed run leaves no step there twice.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from mplug_owl.train.metrics import FILE

SMOOTH = 0.95  # share of the past in the thick line


def draw(runs: Sequence[Path], picture: Path) -> None:
    """One panel for each run folder, side by side, into `picture` (png or svg)."""
    from matplotlib.figure import Figure  # a second that no other command should wait for

    figure = Figure(figsize=(4.2 * len(runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, run in zip(panels, runs, strict=True):
        loss, held_out = _series(run, "loss"), _series(run, "held_out_loss")
        panel.plot(*_columns(loss), color="tab:blue", alpha=0.25, linewidth=0.7)
        panel.plot(*_columns(_smooth(loss)), color="tab:blue", label="training loss, smoothed")
        panel.plot(*_columns(held_out), color="tab:orange", marker="o", markersize=3, label="held-out loss")
        panel.set(title=run.name, xlabel="step", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    partial = picture.with_name(f"{picture.stem}.partial{picture.suffix}")
    figure.savefig(partial, dpi=120)
    partial.replace(picture)


def _series(run: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) wherever the run has it."""
    records = map(json.loads, (run / FILE).read_text(encoding="utf-8").splitlines())
    return [(record["step"], record[name]) for record in records if record.get(name) is not None]


def _smooth(series: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    mean, smooth = 0.0, []
    for count, (step, value) in enumerate(series, start=1):
        mean = SMOOTH * mean + (1 - SMOOTH) * value
        smooth.append((step, mean / (1 - SMOOTH**count)))
    return smooth


def _columns(series: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in series], [value for _, value in series]
