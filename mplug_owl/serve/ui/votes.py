"""Votes between two models, and what they say: a table of strengths with intervals, after Bradley and Terry (1952).

The model: first beats second with probability 1 / (1 + exp(strength of second - strength of first)). A tie, and a vote
that both are bad, counts as half a win for each. So that a model nobody beats, or one that never met the others, gets a
finite place, every pair of models is taken to have tied `prior` times before the first vote. Pages and files are not
known here.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mplug_owl.errors import DataError, RequestError

VERDICTS = ("a", "b", "tie", "bad")
PRIOR = 1.0
AVERAGE = 1000.0
SCALE = 400 / math.log(10)  # as in chess: 400 points are odds of ten to one
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Vote:
    """What somebody thought of two answers."""

    a: str
    b: str
    verdict: str
    """"a" or "b" was better; "tie": both were as good; "bad": both were bad."""
    blind: bool = True
    """Whether the names were hidden until it was cast."""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise DataError(f"verdict {self.verdict!r} of a vote; expected one of {', '.join(VERDICTS)}")
        if self.a == self.b:
            raise DataError(f"a vote between {self.a!r} and itself; expected two models")


@dataclass(frozen=True)
class Standing:
    """A model among the others."""

    model: str
    rating: float
    """1000 is the average of the models."""
    low: float
    high: float
    """Where its rating lies with 95% probability, as far as chance in who voted how goes."""
    wins: int
    losses: int
    ties: int
    bad: int
    """Votes that called both answers bad."""

    @property
    def votes(self) -> int:
        return self.wins + self.losses + self.ties + self.bad


def read(records: Iterable[Mapping[str, Any]]) -> list[Vote]:
    """The votes among records; others that stand in the same file are left out."""
    votes = []
    for record in records:
        a, b, verdict = (record.get(name) for name in ("a", "b", "verdict"))
        if isinstance(a, str) and isinstance(b, str) and a != b and verdict in VERDICTS:
            votes.append(Vote(a, b, str(verdict), record.get("blind") is True))
    return votes


def pair(names: Sequence[str], seed: int | str, number: int) -> tuple[str, str]:
    """Which two meet in a round and on which side: in each lap every pair meets once, in an order drawn by the seed.

    Raises: RequestError where there are not two models.
    """
    pairs = list(combinations(dict.fromkeys(names), 2))
    if not pairs:
        raise RequestError(f"{len(names)} model(s) to compare; expected two at least")
    lap, place = divmod(number, len(pairs))
    dice = random.Random(f"{seed}/{lap}")
    dice.shuffle(pairs)
    swaps = [dice.random() < 0.5 for _ in pairs]
    first, second = pairs[place]
    return (second, first) if swaps[place] else (first, second)


def standings(votes: Iterable[Vote], prior: float = PRIOR) -> list[Standing]:
    """The models by rating, the best first."""
    votes = list(votes)
    names = sorted({name for vote in votes for name in (vote.a, vote.b)})
    if not names:
        return []
    place = {name: index for index, name in enumerate(names)}
    points = np.full((len(names), len(names)), prior / 2)
    np.fill_diagonal(points, 0)
    for vote in votes:
        a, b = place[vote.a], place[vote.b]
        share = {"a": 1.0, "b": 0.0}.get(vote.verdict, 0.5)
        points[a, b] += share
        points[b, a] += 1 - share
    strengths, errors = strengths_of(points)
    tallies = _tallies(votes)
    found = [
        Standing(
            name,
            AVERAGE + SCALE * strength,
            AVERAGE + SCALE * (strength - NORMAL_95 * error),
            AVERAGE + SCALE * (strength + NORMAL_95 * error),
            **{kind: tallies[name, kind] for kind in ("wins", "losses", "ties", "bad")},
        )
        for name, strength, error in zip(names, strengths.tolist(), errors.tolist(), strict=True)
    ]
    return sorted(found, key=lambda standing: (-standing.rating, standing.model))


def strengths_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest strengths, whose mean is 0, and their standard errors from the Fisher information.

    `points[i, j]` is what i won against j. Every two models must be joined by games that both won a part of: a positive
    prior sees to that.
    """
    games = points + points.T
    strengths = np.zeros(len(points))
    for _ in range(200):
        chances = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        slope = (points - games * chances).sum(1)
        step = _inverse(games * chances * (1 - chances)) @ slope
        # The likelihood is concave, so Newton's way leads to its top; far away a whole step may lead past it.
        strengths = strengths + step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-10:
            break
    chances = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    covariance = _inverse(games * chances * (1 - chances))
    return strengths - strengths.mean(), np.sqrt(np.diag(covariance))


def _inverse(weights: np.ndarray) -> np.ndarray:
    """Of the information about the strengths; their mean is no matter of votes and stays out."""
    mean = np.full(weights.shape, 1 / len(weights))
    return np.linalg.inv(np.diag(weights.sum(1)) - weights + mean) - mean


def _tallies(votes: Iterable[Vote]) -> Counter[tuple[str, str]]:
    kinds = {"a": ("wins", "losses"), "b": ("losses", "wins"), "tie": ("ties", "ties"), "bad": ("bad", "bad")}
    found: Counter[tuple[str, str]] = Counter()
    for vote in votes:
        for name, kind in zip((vote.a, vote.b), kinds[vote.verdict], strict=True):
            found[name, kind] += 1
    return found
