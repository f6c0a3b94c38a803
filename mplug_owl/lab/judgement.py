"""Means with intervals, and whether a finding holds.

Over questions an interval says how much another draw of questions could change, over seeds how much another training
could. One seed has the first alone; with several an interval reaches as far as either. A finding is judged by its
paired difference, the same questions on both sides. Which questions those are is not known here.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mplug_owl.eval.scoring import Interval, wilson
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
    return Mean(score, wilson(score, len(numbers)) if min(numbers) >= 0 else paired(numbers))


def paired(differences: Sequence[float]) -> Interval:
    """The 95% interval of a mean of differences between -1 and 1.

    It is Agresti and Min's: two pairs more are taken into account, one of them equal, of the other half a win and half
    a loss. So a few pairs that differ, or none, do not make certainty, as they do of a bootstrap.
    """
    found = np.asarray(differences, dtype=np.float64)
    count = len(found) + 2
    middle = float(found.sum()) / count
    width = 1.96 * ((float((found**2).sum() + 1) / count - middle**2) / count) ** 0.5
    return Interval(middle - width, middle + width)


def over_seeds(scores: Sequence[float]) -> Mean:
    """The mean of several seeds, by Student's t."""
    score, count = float(np.mean(scores)), len(scores)
    width = _T[min(count - 1, len(_T)) - 1] * float(np.std(scores, ddof=1)) / count**0.5
    return Mean(score, Interval(score - width, score + width))


def mean(seeds: Sequence[Values]) -> Mean:
    """The mean of a column over all its seeds."""
    return _over_both(over_questions(_mean_values(seeds)), [over_questions(values).score for values in seeds])


def gap(first: Sequence[Sequence[Values]], second: Sequence[Sequence[Values]]) -> Mean:
    """How much better the first variants are than the second: for each variant, its values by seed."""
    seeds = [
        _less(_mean_values([values[seed] for values in first]), _mean_values([values[seed] for values in second]))
        for seed in range(len(first[0]))
    ]
    scores = [float(np.mean(list(differences.values()))) for differences in seeds]
    whole = list(_mean_values(seeds).values())
    return _over_both(Mean(float(np.mean(scores)), paired(whole)), scores)


def _over_both(questions: Mean, scores: Sequence[float]) -> Mean:
    """As far as the interval over questions or that over seeds reaches: seeds that happen to agree prove little."""
    if len(scores) == 1:
        return questions
    seeds = over_seeds(scores).interval
    low, high = questions.interval
    return Mean(questions.score, Interval(min(low, seeds.low), max(high, seeds.high)))


def _less(first: Values, second: Values) -> Values:
    assert first.keys() == second.keys(), "all variants are asked the same questions"
    return {name: value - second[name] for name, value in first.items()}


def _mean_values(several: Sequence[Values]) -> Values:
    """What variants or seeds are worth on average, question by question."""
    names = several[0].keys()
    assert all(values.keys() == names for values in several), "all are asked the same questions"
    return {name: float(np.mean([values[name] for values in several])) for name in names}


def verdict(found: Interval, margin: float = 0.0) -> Verdict:
    """Whether a paired difference says that the first is better, or that it is not worse by more than `margin`.

    An interval with the bound inside decides nothing, however near the mean is.
    """
    if found.low > -margin:
        return "holds"
    return "does not hold" if found.high < -margin else "not decided"
