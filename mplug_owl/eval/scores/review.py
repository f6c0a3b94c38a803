"""Reviews in the manner of Vicuna: a judge gives two assistants 1 to 10 points each, on the first line of its review.

The summary is that of LLaVA (summarize_gpt_review.py): mean points of both, times ten, and the second's as a percentage
of the first's, over all questions and by category.
"""

from collections.abc import Iterable
from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True)
class Review:
    """The points of two assistants on one question."""

    category: str
    first: float
    second: float


@dataclass(frozen=True)
class Summary:
    relative: float
    """The second's points in percent of the first's."""
    first: float
    """The first's mean points, times ten."""
    second: float
    n: int


def points(review: str) -> tuple[float, float] | None:
    """The two numbers of a review's first line, apart by a comma or a blank; None where it does not hold just two."""
    numbers = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, numbers)
    except ValueError:
        return None
    return first, second


def summary(reviews: Iterable[Review]) -> dict[str, Summary]:
    """By category in alphabetical order, among them `all`."""
    groups: dict[str, list[Review]] = {}
    for review in reviews:
        groups.setdefault(review.category, []).append(review)
        groups.setdefault(ALL, []).append(review)
    return {category: _summed(found) for category, found in sorted(groups.items())}


def _summed(reviews: list[Review]) -> Summary:
    # Means are rounded to three digits before they are divided, as in the official summary.
    first = round(sum(review.first for review in reviews) / len(reviews), 3)
    second = round(sum(review.second for review in reviews) / len(reviews), 3)
    relative = round(second / first * 100, 1) if first else float("nan")
    return Summary(relative, round(first * 10, 1), round(second * 10, 1), len(reviews))
