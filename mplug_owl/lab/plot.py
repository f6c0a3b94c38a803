"""The scores of a study as a picture: a group for each column, in it a point with its interval for each variant.

It knows `results.json` alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MARKERS = "osD^vP*X"
_SPREAD = 0.7  # of the room between two columns


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """Write the plot as `picture` (png or svg)."""
    from matplotlib.figure import Figure  # a second that no other command should wait for

    columns, variants = list(results["columns"]), results["variants"]
    figure = Figure(figsize=(1.5 + 1.1 * len(columns), 4.2), layout="constrained")
    panel = figure.subplots()
    for number, variant in enumerate(variants):
        offset = _SPREAD * ((number + 0.5) / len(variants) - 0.5)
        scores = [variant["scores"][name] for name in columns]
        middle = [100 * found["score"] for found in scores]
        low = [100 * (found["score"] - found["interval"][0]) for found in scores]
        high = [100 * (found["interval"][1] - found["score"]) for found in scores]
        panel.errorbar(
            [place + offset for place in range(len(columns))],
            middle,
            yerr=[low, high],
            fmt=_MARKERS[number % len(_MARKERS)],
            color=f"C{number}",
            label=variant["name"],
            capsize=2,
            markersize=5,
            linewidth=1,
        )
    for place in range(1, len(columns)):
        panel.axvline(place - 0.5, color="0.9", linewidth=0.8, zorder=0)
    seeds = len(results["seeds"])
    over = "one seed, intervals over questions" if seeds == 1 else f"{seeds} seeds, intervals over seeds and questions"
    panel.set(xticks=range(len(columns)), xticklabels=columns, ylabel="percent", title=f"{results['name']}: {over}")
    panel.tick_params(axis="x", rotation=20)
    panel.grid(axis="y", alpha=0.3)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    partial = picture.with_name(f"{picture.stem}.partial{picture.suffix}")
    figure.savefig(partial, dpi=120)
    partial.replace(picture)
