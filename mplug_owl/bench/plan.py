"""What a benchmark is asked for, what it finds, and how people read that.

Nothing here measures or imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mplug_owl.errors import RequestError

SHAPES = ("tiny", "small", "owl-7b", "owl2-7b")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Plan:
    shape: str = "small"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    rounds: int = 11
    steps: int = 8
    """Decode steps timed together; each starts from the same cache."""
    positions: int = 192
    visual: int = 64
    """How many of the positions hold visual embeddings."""

    def __post_init__(self) -> None:
        if min(self.rounds - 1, self.steps, self.threads) < 1:
            raise RequestError(
                f"rounds={self.rounds}, steps={self.steps}, threads={self.threads}; a median with "
                "quartiles needs at least 2 rounds of 1 step on 1 thread"
            )
        if not 1 <= self.visual < self.positions:
            raise RequestError(
                f"visual={self.visual} of positions={self.positions}; give at least one visual "
                "position and one of text"
            )

    def quick(self) -> "Plan":
        return replace(self, shape="tiny", rounds=2, steps=2)


@dataclass(frozen=True)
class Measurement:
    """One thing timed, mostly beside another: one JSON line."""

    what: str
    """prefill or decode of a decoder with its head; vision or abstractor for one picture."""
    ours: str
    baseline: str | None
    """llava, owl (the plain decoder), or the time that a limit of the machine would allow."""
    shape: str
    dtype: str
    device: str
    threads: int
    positions: int
    visual: int
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


def table(found: Sequence[Measurement]) -> str:
    lines = [f"{'':11}{'':6}{'ms':>10}   {'beside':15}{'ms':>10}{'ratio':>8}   quartiles"]
    for m in found:
        line = f"{m.what:11}{m.ours:6}{m.median_ms_ours:10.2f}"
        if m.ratio is not None and m.ratio_quartiles is not None:
            low, high = m.ratio_quartiles
            line += f"   {m.baseline:15}{m.median_ms_baseline:10.2f}{m.ratio:8.3f}"
            line += f"   {low:.3f} to {high:.3f}"
        if m.what == "decode" and m.baseline not in ("llava", "owl"):
            line += f"   {1e3 / m.median_ms_ours:.1f} tokens/s"
        lines.append(line)
    last = found[-1]
    lines.append(
        f"{last.shape}, {last.dtype}, {last.machine['gpu'] if last.device != 'cpu' else 'cpu'}, "
        f"{last.threads} thread(s), {last.visual} visual of {last.positions} positions, "
        f"{last.runs} rounds, load {last.load:.1f}"
    )
    return "\n".join(lines)
