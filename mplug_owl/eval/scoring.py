"""Whether an answer is right, and how sure a share of right answers is.

It compares texts and counts; it knows neither tasks nor models.
"""

import math
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # of the normal distribution: 95% lie within
DRAWS = 2_000
SWAPS = 10_000
EXACT = 14  # pairs: 2**14 ways are counted at once
_ENDS = string.whitespace + ".,;:!?\"'`*()[]{}"
_ARTICLES = ("a ", "an ", "the ")
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}


class Interval(NamedTuple):
    low: float
    high: float


def normal(text: str) -> str:
    """A short answer without what does not count: case, spaces, punctuation and articles at its ends; numbers are
    written in digits.
    """
    words = " ".join(text.casefold().split())
    words = words.strip(_ENDS) or words
    for article in _ARTICLES:
        words = words.removeprefix(article)
    return _DIGITS.get(words, words)


def formal(text: str) -> str:
    """An answer whose form counts: all but white space, and the full stop at its end."""
    return " ".join(text.split()).removesuffix(".")


def is_right(answer: str, accepted: Iterable[str], *, form: bool = False) -> bool:
    """Whether an answer is one of those accepted, to the letter where its form counts."""
    read = formal if form else normal
    return read(answer) in {read(text) for text in accepted}


def majority(groups: Iterable[tuple[str, Iterable[str]]]) -> float:
    """The share that is right by chance: for each group of (group, accepted answers), the best answer to all of it.

    An upper bound for who knows the questions and how often which answer is right, but does not look.
    """
    counts: dict[str, Counter[str]] = {}
    total = 0
    for group, accepted in groups:
        counts.setdefault(group, Counter()).update({normal(text) for text in accepted})
        total += 1
    return sum(max(counter.values()) for counter in counts.values()) / total if total else 0.0


def wilson(mean: float, n: int) -> Interval:
    """The 95% interval of a share of `n`, by Wilson's score."""
    if not n:
        return Interval(0.0, 1.0)
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return Interval(max(0.0, centre - width), min(1.0, centre + width))


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Interval:
    """The 95% interval of mean(first) - mean(second) over the same examples, by bootstrap over pairs."""
    paired = np.subtract(first, second, dtype=np.float64)
    random = np.random.default_rng(seed)
    means = [paired[random.integers(len(paired), size=len(paired))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))


def interval(values: Sequence[float]) -> Interval:
    """The 95% interval of a mean: Wilson's where each value is 0 or 1, else by bootstrap."""
    if all(value in (0, 1) for value in values):
        return wilson(sum(values) / max(len(values), 1), len(values))
    return difference(values, [0.0] * len(values))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p that two sets of answers to the same questions are equally good."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


def swapped(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> float:
    """The two-sided p that two sets of scores of the same examples are equally good, by permutation.

    If they were, each pair might as well be the other way round. With few pairs that differ, all ways are counted.
    """
    paired = np.subtract(first, second, dtype=np.float64)
    paired = paired[paired != 0]
    if len(paired) <= EXACT:
        ways = (np.arange(2 ** len(paired))[:, None] >> np.arange(len(paired))) & 1
        return float(np.mean(_reaches((2 * ways - 1) @ paired, paired.sum())))
    random = np.random.default_rng(seed)
    sums = [paired @ (2 * random.integers(2, size=len(paired)) - 1) for _ in range(SWAPS)]
    return float((1 + np.sum(_reaches(np.array(sums), paired.sum()))) / (1 + SWAPS))


def _reaches(sums: NDArray[np.float64], seen: float) -> NDArray[np.bool_]:
    reached: NDArray[np.bool_] = np.abs(sums) >= abs(seen) - 1e-9
    return reached


class PairedTest(NamedTuple):
    name: str
    p: float


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """The test that fits scores of the same examples: McNemar's where each is 0 or 1, else a permutation."""
    if all(value in (0, 1) for value in (*first, *second)):
        return PairedTest("McNemar, exact", mcnemar([value == 1 for value in first], [value == 1 for value in second]))
    return PairedTest("paired permutation", swapped(first, second))
