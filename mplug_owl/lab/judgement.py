"""Means with intervals, and whether a finding holds.

With one seed an interval is over questions: how much another draw of questions could change. With several it is over
seeds: how much another training could. A finding is judged by its paired difference, the same questions on both sides.
Which questions those are is not known here.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mplug_owl.eval.scoring import Interval, difference, wilson
from mplug_owl.lab.columns import Values

Verdict = Literal["holds", "does not hold", "not decided"]
# Student's t of 95% for 1 to 9 degrees of freedom; the last one is on the safe side of all further ones.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Mean(NamedTuple):
    score: float
    interval: Interval


def over_questions(values: Values) -> Mean:
    """The mean of one seed. Values from 0 to 1 are shares of right answers; a gap may be below 0."""
    numbers = list(values.values())
    score = float(np.mean(numbers))
    if min(numbers) >= 0:
        return Mean(score, wilson(score, len(numbers)))
    return Mean(score, difference(numbers, [0.0] * len(numbers)))


def over_seeds(scores: Sequence[float]) -> Mean:
    """The mean of several seeds, by Student's t."""
    score, count = float(np.mean(scores)), len(scores)
    width = _T[min(count - 1, len(_T)) - 1] * float(np.std(scores, ddof=1)) / count**0.5
    return Mean(score, Interval(score - width, score + width))


def mean(seeds: Sequence[Values]) -> Mean:
    """The mean of a column over all its seeds."""
    singles = [over_questions(values) for values in seeds]
    return singles[0] if len(singles) == 1 else over_seeds([single.score for single in singles])


def gap(first: Sequence[Sequence[Values]], second: Sequence[Sequence[Values]]) -> Mean:
    """How much better the first variants are than the second: for each variant, its values by seed."""
    pairs = [
        (_mean_values([values[seed] for values in first]), _mean_values([values[seed] for values in second]))
        for seed in range(len(first[0]))
    ]
    gaps = [float(np.mean(list(ours.values())) - np.mean(list(theirs.values()))) for ours, theirs in pairs]
    if len(pairs) > 1:
        return over_seeds(gaps)
    ours, theirs = pairs[0]
    if ours == theirs:  # no pair differs, of which a bootstrap would make certainty
        most = wilson(0.0, len(ours)).high
        return Mean(0.0, Interval(-most, most))
    return Mean(gaps[0], difference([ours[name] for name in theirs], list(theirs.values())))


def _mean_values(variants: Sequence[Values]) -> Values:
    """What the variants are worth on average, question by question."""
    names = variants[0].keys()
    assert all(values.keys() == names for values in variants), "all variants are asked the same questions"
    return {name: float(np.mean([values[name] for values in variants])) for name in names}


def verdict(found: Interval, margin: float | None = None) -> Verdict:
    """Whether a paired difference says that the first is better, or with `margin`, that it is not worse by so much."""
    if found.low > (0 if margin is None else -margin):
        return "holds"
    return "does not hold" if found.high < 0 else "not decided"
