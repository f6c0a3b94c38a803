"""How far raters agree beyond chance: Krippendorff's alpha and Cohen's kappa, plain and weighted.

Values are the names of categories, given in their order. It knows neither raters nor what they rated.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mplug_owl.errors import EvalError
from mplug_owl.eval.scoring import Interval

Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["none", "linear", "quadratic"]
Matrix = NDArray[np.float64]

DRAWS = 1_000


def krippendorff(
    units: Sequence[Sequence[Hashable]], categories: Sequence[Hashable], level: Level = "ordinal"
) -> float | None:
    """Krippendorff's alpha of units, each with the values that its raters gave; who gave which does not count.

    A unit with one value says nothing of agreement and is passed over. None where alpha is undefined: no unit has two
    values, or all values are the same.
    """
    return _alpha(_coincidences(units, categories).sum(axis=0), level)


def krippendorff_interval(
    units: Sequence[Sequence[Hashable]], categories: Sequence[Hashable], level: Level = "ordinal", *, seed: int = 0
) -> Interval | None:
    """The 95% interval of alpha by bootstrap over units; draws in which it is undefined are left out."""
    cells = _coincidences(units, categories)
    if not len(cells) or _alpha(cells.sum(axis=0), level) is None:
        return None
    random = np.random.default_rng(seed)
    times = random.multinomial(len(cells), np.full(len(cells), 1 / len(cells)), size=DRAWS)
    drawn = np.tensordot(times.astype(np.float64), cells, axes=1)
    found = [alpha for matrix in drawn if (alpha := _alpha(matrix, level)) is not None]
    low, high = np.quantile(found, (0.025, 0.975))
    return Interval(float(low), float(high))


def kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    categories: Sequence[Hashable],
    weights: Weights = "quadratic",
) -> float | None:
    """Cohen's kappa of two raters' values for the same things; None where chance alone must agree.

    With `weights` a disagreement counts by its distance in the order of the categories, or by the square of it.
    """
    if len(first) != len(second):
        raise EvalError(f"{len(first)} values of one rater and {len(second)} of the other; expected one pair each")
    place = _places(categories)
    table = np.zeros((len(place), len(place)))
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    total = table.sum()
    steps = np.abs(np.subtract.outer(np.arange(len(place)), np.arange(len(place)))).astype(np.float64)
    cost = {"none": (steps > 0).astype(np.float64), "linear": steps, "quadratic": steps**2}[weights]
    by_chance = (cost * np.outer(table.sum(axis=1), table.sum(axis=0))).sum()
    return None if not by_chance else float(1 - total * (cost * table).sum() / by_chance)


def _coincidences(units: Sequence[Sequence[Hashable]], categories: Sequence[Hashable]) -> Matrix:
    """For each unit how often each value meets each other; all pairs of a unit weigh as much as its values."""
    place = _places(categories)
    cells = np.zeros((len(units), len(place), len(place)))
    for cell, values in zip(cells, units, strict=True):
        if len(values) > 1:
            counts = np.zeros(len(place))
            np.add.at(counts, [place[value] for value in values], 1)
            cell += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    return cells


def _alpha(coincidences: Matrix, level: Level) -> float | None:
    counts = coincidences.sum(axis=1)
    total = counts.sum()
    distance = _distances(counts, level)
    expected = (np.outer(counts, counts) * distance).sum()
    return None if expected <= 0 else float(1 - (total - 1) * (coincidences * distance).sum() / expected)


def _distances(counts: Matrix, level: Level) -> Matrix:
    """Squared distances between categories (Krippendorff 2011); ordinal ones depend on how many values lie between."""
    ranks = np.arange(len(counts), dtype=np.float64)
    if level == "ordinal":
        ranks = counts.cumsum() - counts / 2
    distances: Matrix = np.subtract.outer(ranks, ranks) ** 2
    return (distances > 0).astype(np.float64) if level == "nominal" else distances


def _places(categories: Sequence[Hashable]) -> dict[Hashable, int]:
    return {category: number for number, category in enumerate(categories)}
