"""Whether an answer is right, and how sure a share of right answers is.

It compares texts and counts; it knows neither tasks nor models.
"""

import math
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # of the normal distribution: 95% lie within
DRAWS = 2_000
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


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p that two sets of answers to the same questions are equally good."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)
