"""Scores against brute force and known values."""

import itertools
import math
import random

import numpy as np
import pytest

from mplug_owl.eval.scoring import (
    difference,
    formal,
    interval,
    is_right,
    majority,
    mcnemar,
    normal,
    paired_test,
    swapped,
    wilson,
)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Red.", "red"),
        ("  A  red\tstar ", "red star"),
        ("three", "3"),
        ("Twenty!", "20"),
        ('"The left"', "left"),
        ("`-5`", "-5"),
        ("half past four", "Half past four"),
        ("(yes)", "yes"),
        ("?", "?"),
        ("C-A-T", "c-a-t"),
    ],
)
def test_what_does_not_count_is_taken_away(answer: str, reference: str) -> None:
    assert is_right(answer, (reference,))
    assert normal(normal(answer)) == normal(answer)


@pytest.mark.parametrize(
    ("answer", "reference"), [("5", "-5"), ("red, blue", "blue, red"), ("", "red"), ("2:30", "2:3"), ("art", "a rt")]
)
def test_what_counts_stays(answer: str, reference: str) -> None:
    assert not is_right(answer, (reference,))


def test_any_accepted_answer_is_right() -> None:
    assert is_right("Middle", ("centre", "center", "middle"))
    assert not is_right("middle", ())


def test_form_counts_to_the_letter_where_it_is_asked_for() -> None:
    assert is_right("RED", ("RED",), form=True)
    assert is_right("The star is  red", ("The star is red.",), form=True)
    for answer in ("red", "the RED", '"RED"'):
        assert not is_right(answer, ("RED",), form=True)
    assert not is_right("3", ("three",), form=True)
    assert formal(formal(" a b. ")) == "a b"


def test_majority_is_the_best_blind_guess() -> None:
    chance = random.Random(0)
    examples = [
        (chance.choice("ab"), tuple(chance.sample(["yes", "no", "red", "3"], chance.randint(1, 2)))) for _ in range(60)
    ]
    best = 0
    for group in "ab":
        mine = [accepted for name, accepted in examples if name == group]
        best += max(sum(is_right(guess, accepted) for accepted in mine) for guess in ("yes", "no", "red", "three"))
    assert majority(examples) == best / len(examples)
    assert majority([]) == 0


def test_wilson_against_published_and_brute_force() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.9, 500) == pytest.approx((0.8706, 0.9234), abs=1e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)
    for right, n in ((3, 7), (0, 4), (12, 12), (40, 90)):
        # By definition: the shares from which `right` of n is no further than 1.96 standard errors away.
        shares = np.linspace(0, 1, 200_001)
        near = np.abs(right / n - shares) <= 1.959964 * np.sqrt(shares * (1 - shares) / n) + 1e-12
        assert wilson(right / n, n) == pytest.approx((shares[near].min(), shares[near].max()), abs=1e-4)


def test_difference_against_every_resample() -> None:
    first, second = [1, 1, 0, 1, 1], [0, 1, 0, 0, 1]
    paired = np.subtract(first, second)
    means = [paired[list(places)].mean() for places in itertools.product(range(5), repeat=5)]
    assert difference(first, second) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=1e-9)


def test_difference_is_normal_for_many_pairs_and_repeats() -> None:
    chance = np.random.default_rng(3)
    first, second = (chance.random(800) < 0.8).astype(float), (chance.random(800) < 0.5).astype(float)
    paired = first - second
    width = 1.96 * paired.std() / math.sqrt(800)
    found = difference(first, second)
    assert found == pytest.approx((paired.mean() - width, paired.mean() + width), abs=0.006)
    assert difference(first, second) == found
    assert difference(first, first) == (0, 0)


def test_mcnemar_against_every_coin() -> None:
    first = [True] * 9 + [False] * 2 + [True] * 5
    second = [False] * 9 + [True] * 2 + [True] * 5
    heads = [sum(coins) for coins in itertools.product((0, 1), repeat=11)]
    extreme = sum(abs(count - 5.5) >= abs(9 - 5.5) for count in heads) / len(heads)
    assert mcnemar(first, second) == pytest.approx(extreme)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1


def test_intervals_fit_what_is_averaged() -> None:
    assert interval([1, 0, 1.0, True]) == wilson(0.75, 4)
    assert interval([]) == (0, 1)
    low, high = interval([0.3, 0.6, 1.0, 0.0])
    assert 0 <= low < 0.475 < high <= 1 and (low, high) == difference([0.3, 0.6, 1.0, 0.0], [0.0] * 4)


def test_permutation_against_every_exchange() -> None:
    first, second = [0.9, 0.3, 0.6, 1.0, 0.0, 0.5], [0.1, 0.4, 0.6, 0.2, 0.3, 0.1]
    seen = abs(sum(first) - sum(second))
    reached = 0
    for swaps in itertools.product((False, True), repeat=6):
        pairs = [(b, a) if swap else (a, b) for a, b, swap in zip(first, second, swaps, strict=True)]
        reached += abs(sum(a - b for a, b in pairs)) >= seen - 1e-9
    assert swapped(first, second) == pytest.approx(reached / 2**6)
    assert swapped(first, first) == 1


def test_permutation_of_many_pairs() -> None:
    chance = np.random.default_rng(5)
    first = chance.random(400)
    # Under the null the p of a normal approximation; clearly better where one is.
    second = first + chance.normal(0.02, 0.2, 400)
    difference_of = second - first
    z = abs(difference_of.sum()) / math.sqrt((difference_of**2).sum())
    assert swapped(first, second) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)
    assert swapped(first + 1, first) < 1e-3
    assert swapped(first, second) == swapped(first, second)


def test_the_test_fits_the_scores() -> None:
    assert paired_test([1, 0, 1], [0.0, 1.0, True]).name == "McNemar, exact"
    found = paired_test([0.3, 1, 1], [0, 1, 0])
    assert found.name == "paired permutation" and found.p == swapped([0.3, 1, 1], [0, 1, 0])
