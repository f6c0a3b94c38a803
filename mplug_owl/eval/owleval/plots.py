"""The pictures of a report: stacked bars of grades, and abilities as a radar. It knows counts and shares alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mplug_owl.eval.grades import LETTERS, Letter
from mplug_owl.eval.owleval.tally import Tally

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# From good to bad, told apart by those who do not tell red from green, and in grey.
COLOURS: dict[Letter, str] = {"A": "#2166ac", "B": "#92c5de", "C": "#f4a582", "D": "#b2182b"}
_DARK = "AD"  # letters whose bars are so dark that numbers in them are white
_UNGRADED = "0.85"


def bars(views: Mapping[str, Sequence[Tally]], title: str) -> "Figure":
    """A panel for each view, in it a bar for each system, of as many parts as there are grades."""
    from matplotlib.figure import Figure  # a second that no other command should wait for

    systems = max(len(tallies) for tallies in views.values())
    figure = Figure(figsize=(1.5 + 0.9 * systems * len(views), 4.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for panel, (view, tallies) in zip(figure.subplots(1, len(views), squeeze=False)[0], views.items(), strict=True):
        names = [each.system for each in tallies]
        foot = [0] * len(names)
        for letter in LETTERS:
            counts = [each.counts[letter] for each in tallies]
            drawn = panel.bar(names, counts, bottom=foot, color=COLOURS[letter], label=letter, width=0.7)
            labels = [str(count) if count else "" for count in counts]
            panel.bar_label(drawn, labels, label_type="center", color="white" if letter in _DARK else "black")
            foot = [below + count for below, count in zip(foot, counts, strict=True)]
        rest = [each.total - each.n for each in tallies]
        if any(rest):
            drawn = panel.bar(names, rest, bottom=foot, color=_UNGRADED, label="no grade", width=0.7)
            panel.bar_label(drawn, [str(count) if count else "" for count in rest], label_type="center")
        panel.set(title=f"{view} ({max(each.total for each in tallies)})", ylabel="answers")
        panel.tick_params(axis="x", rotation=30)
        panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def radar(systems: Mapping[str, Mapping[str, float | None]], title: str) -> "Figure":
    """A line for each system around the abilities; those of which nothing is known are left out for all."""
    import numpy as np
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for shares in systems.values() for name in shares))
    names = [name for name in names if all(shares.get(name) is not None for shares in systems.values())]
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    panel = figure.add_subplot(projection="polar")
    for number, (system, shares) in enumerate(systems.items()):
        values = [100 * (shares[name] or 0.0) for name in names]
        panel.plot([*angles, *angles[:1]], [*values, *values[:1]], color=f"C{number}", marker="o", ms=3, label=system)
    panel.set(xticks=angles, xticklabels=names, ylim=(0, 100), title=title)
    panel.set_theta_zero_location("N")  # type: ignore[attr-defined]
    panel.set_rlabel_position(180 / max(len(names), 1))  # type: ignore[attr-defined]
    for label, angle in zip(panel.get_xticklabels(), angles, strict=True):  # beside the circle, not across it
        side = np.sin(angle).round(3)
        label.set_horizontalalignment("center" if not side else "right" if side > 0 else "left")
    panel.legend(loc="center left", bbox_to_anchor=(1.15, 0.5))
    return figure


def save(figure: "Figure", picture: Path) -> Path:
    """Write the whole picture or none of it."""
    partial = picture.with_name(f"{picture.stem}.partial{picture.suffix}")
    figure.savefig(partial, dpi=120, bbox_inches="tight")
    partial.replace(picture)
    return picture
