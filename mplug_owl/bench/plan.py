"""What a benchmark is asked for, what it finds, and how people read that.

Nothing here measures or imports torch.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mplug_owl.errors import RequestError

SHAPES = ("tiny", "mini", "chat", "small", "owlet", "owlet-nano", "owl-7b", "owl2-7b")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Plan:
    shape: str = "small"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    rounds: int = 11
    steps: int = 8
    """Decode steps timed together, each from the same cache; engine: tokens of an answer."""
    positions: int = 192
    visual: int = 64
    """How many of the positions hold visual embeddings."""

    def __post_init__(self) -> None:
        if min(self.rounds - 1, self.steps, self.threads) < 1:
            raise RequestError(
                f"rounds={self.rounds}, steps={self.steps}, threads={self.threads}; a median with quartiles needs at "
                "least 2 rounds of 1 step on 1 thread"
            )
        if not 1 <= self.visual < self.positions:
            raise RequestError(
                f"visual={self.visual} of positions={self.positions}; give at least one visual position and one of text"
            )

    @property
    def setting(self) -> dict[str, Any]:
        """What every measurement says of the plan."""
        return {name: getattr(self, name) for name in ("shape", "dtype", "device", "threads")}

    def quick(self) -> "Plan":
        return replace(self, shape="tiny", rounds=2, steps=2)


PLANS = {
    "model": Plan(),
    "data": Plan(shape="mini", dtype="bfloat16"),
    "train": Plan(shape="mini", dtype="bfloat16"),
    "engine": Plan(shape="chat", dtype="bfloat16", rounds=5, steps=48, positions=65),
    "serving": Plan(shape="chat", dtype="bfloat16", rounds=5, steps=48, positions=65),
    "scoring": Plan(rounds=5),
    "evaluation": Plan(shape="owlet", dtype="float32", rounds=2, steps=64, positions=1000),
}
"""What each benchmark does unless told otherwise."""


@dataclass(frozen=True)
class Measurement:
    """One thing timed, mostly beside another: one JSON line."""

    what: str
    """What a millisecond below is for: a prefill, a decode step, a picture, a token, a training step."""
    ours: str
    baseline: str | None
    """Another side, or the time that a limit of the machine would allow."""
    setting: dict[str, Any]
    """Shape, dtype, threads and the like; its items stand in the line beside the others."""
    median_ms_ours: float
    median_ms_baseline: float | None
    ratio: float | None
    """Median over the rounds of our time by the baseline's: below 1 we are faster."""
    ratio_quartiles: tuple[float, float] | None
    runs: int
    load: float
    """Processes that were busy on the whole machine, on average over the last minute."""
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    """`+` where the package differs from it, None where there is no checkout."""
    date: str

    def line(self) -> str:
        return json.dumps({**self.setting, **{k: v for k, v in asdict(self).items() if k != "setting"}})


def table(found: Sequence[Measurement]) -> str:
    lines = [f"{'':12}{'':12}{'ms':>10}{'per s':>10}   {'beside':16}{'ms':>10}{'ratio':>8}   quartiles"]
    setting = found[0].setting
    for m in found:
        if m.setting != setting:
            lines.append(described(setting))
            setting = m.setting
        line = f"{m.what:12}{m.ours:12}{m.median_ms_ours:10.3f}{1e3 / m.median_ms_ours:10.1f}"
        if m.ratio is not None and m.ratio_quartiles is not None:
            low, high = m.ratio_quartiles
            line += f"   {m.baseline:16}{m.median_ms_baseline:10.3f}{m.ratio:8.3f}   {low:.3f} to {high:.3f}"
        lines.append(line)
    lines += [described(setting), f"{found[-1].runs} rounds, load {found[-1].load:.1f}"]
    return "\n".join(lines)


def described(setting: dict[str, Any]) -> str:
    return "(" + ", ".join(f"{name} {value}" for name, value in setting.items()) + ")"
