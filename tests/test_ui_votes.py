"""Votes and what they say: closed forms, simulated leagues, and cases that have no finite answer without a prior."""

import math
import random
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest

from mplug_owl.errors import DataError, RequestError
from mplug_owl.serve.ui.votes import AVERAGE, NORMAL_95, SCALE, Vote, pair, read, standings, strengths_of


def votes(*counts: tuple[str, str, str, int]) -> list[Vote]:
    return [Vote(a, b, verdict) for a, b, verdict, count in counts for _ in range(count)]


def league(strengths: dict[str, float], rounds: int, seed: int, tied: float = 0.0) -> list[Vote]:
    """Every pair meets `rounds` times, and some votes are ties."""
    dice = random.Random(seed)
    found = []
    for a, b in combinations(strengths, 2):
        for _ in range(rounds):
            if dice.random() < tied:
                found.append(Vote(a, b, dice.choice(("tie", "bad"))))
            else:
                wins = dice.random() < 1 / (1 + math.exp(strengths[b] - strengths[a]))
                found.append(Vote(a, b, "a" if wins else "b"))
    return found


@pytest.mark.parametrize(("won", "lost"), [(7, 3), (1, 0), (40, 40), (300, 2)])
def test_two_models_have_a_closed_form(won: int, lost: int) -> None:
    found = {row.model: row for row in standings(votes(("x", "y", "a", won), ("x", "y", "b", lost)))}
    apart = 400 * math.log10((won + 0.5) / (lost + 0.5))
    assert found["x"].rating - found["y"].rating == pytest.approx(apart, abs=1e-6)
    assert (found["x"].rating + found["y"].rating) / 2 == pytest.approx(AVERAGE)
    # The variance of a logarithm of odds is 1/wins + 1/losses; each model has half of the difference.
    error = math.sqrt(1 / (won + 0.5) + 1 / (lost + 0.5)) / 2
    for row in found.values():
        assert row.high - row.rating == pytest.approx(SCALE * NORMAL_95 * error, rel=1e-6)
        assert row.rating - row.low == pytest.approx(row.high - row.rating)


def test_ties_are_half_a_win_for_each_and_so_are_two_bad_answers() -> None:
    half = standings(votes(("x", "y", "a", 6), ("x", "y", "b", 2)))
    for verdict in ("tie", "bad"):
        tied = standings(votes(("x", "y", "a", 4), ("x", "y", verdict, 4)))
        assert [row.rating for row in tied] == pytest.approx([row.rating for row in half])
    assert (tied[0].bad, tied[0].ties, tied[0].wins, tied[0].losses, tied[0].votes) == (4, 0, 4, 0, 8)


def test_neither_sides_nor_order_nor_names_matter() -> None:
    cast = league({"u": 0.0, "v": 0.7, "w": -0.4}, 30, seed=3, tied=0.2)
    turned = [Vote(vote.b, vote.a, {"a": "b", "b": "a"}.get(vote.verdict, vote.verdict)) for vote in cast]
    random.Random(1).shuffle(turned)
    assert [row.model for row in standings(turned)] == [row.model for row in standings(cast)]
    assert [row.rating for row in standings(turned)] == pytest.approx([row.rating for row in standings(cast)])
    other = {"u": "zz", "v": "aa", "w": "mm"}
    named = standings([Vote(other[vote.a], other[vote.b], vote.verdict) for vote in cast])
    assert [row.rating for row in named] == pytest.approx([row.rating for row in standings(cast)])


def test_the_strengths_are_the_top_of_the_likelihood() -> None:
    points = np.array([[0, 5.5, 2.0, 0.5], [1.5, 0, 3.5, 2.5], [4.0, 0.5, 0, 9.5], [0.5, 0.5, 1.5, 0]])
    strengths, _ = strengths_of(points)

    def likelihood(at: np.ndarray) -> float:
        return sum(points[i, j] * -math.log1p(math.exp(at[j] - at[i])) for i, j in permutations(range(4), 2))

    top = likelihood(strengths)
    assert strengths.sum() == pytest.approx(0, abs=1e-12)
    for i, step in ((i, step) for i in range(4) for step in (-1e-3, 1e-3)):
        moved = strengths.copy()
        moved[i] += step
        assert likelihood(moved) < top


def test_a_model_that_nobody_beats_and_one_that_never_won_have_finite_places() -> None:
    rows = standings(votes(("best", "mid", "a", 50), ("mid", "worst", "a", 50), ("best", "worst", "a", 50)))
    assert [row.model for row in rows] == ["best", "mid", "worst"]
    assert all(math.isfinite(value) for row in rows for value in (row.rating, row.low, row.high))
    assert rows[0].low > rows[1].high > rows[1].low > rows[2].high


def test_models_that_never_met_are_told_apart_by_what_they_did_and_left_uncertain() -> None:
    rows = {row.model: row for row in standings(votes(("a", "b", "a", 30), ("c", "d", "a", 30)))}
    assert all(math.isfinite(value) for row in rows.values() for value in (row.rating, row.low, row.high))
    assert rows["a"].rating == pytest.approx(rows["c"].rating)
    assert rows["b"].rating == pytest.approx(rows["d"].rating)
    joined = {row.model: row for row in standings(league({"a": 1.0, "b": -1.0, "c": 1.0, "d": -1.0}, 30, seed=5))}
    assert rows["a"].high - rows["a"].low > joined["a"].high - joined["a"].low


def test_more_votes_narrow_the_interval() -> None:
    widths = [row.high - row.low for count in (4, 16, 64) for row in standings(votes(("x", "y", "tie", count)))[:1]]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] / widths[2] == pytest.approx(math.sqrt(65 / 17), rel=1e-6)


def test_a_simulated_league_is_found_again() -> None:
    true = {"a": 1.2, "b": 0.5, "c": 0.1, "d": -0.3, "e": -1.5}
    rows = {row.model: row for row in standings(league(true, 2000, seed=11))}
    assert sorted(rows, key=lambda name: -rows[name].rating) == list(true)
    for name, strength in true.items():
        assert rows[name].rating == pytest.approx(AVERAGE + SCALE * strength, abs=15)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    true = {"a": 0.6, "b": 0.2, "c": -0.3, "d": -0.5}
    inside = Counter[bool]()
    for seed in range(200):
        for row in standings(league(true, 40, seed)):
            inside[row.low <= AVERAGE + SCALE * true[row.model] <= row.high] += 1
    # 95% of 800, give or take what chance allows; ratings of one league hang together, so it allows more.
    assert 0.925 <= inside[True] / inside.total() <= 0.975


def test_nobody_voted() -> None:
    assert standings([]) == []


def test_each_lap_brings_every_pair_together_once() -> None:
    names = ["a", "b", "c", "d"]
    for lap in range(5):
        met = [frozenset(pair(names, 7, 6 * lap + place)) for place in range(6)]
        assert len(set(met)) == 6
    sides = Counter(pair(names, 7, number)[0] for number in range(600))
    assert all(120 < sides[name] < 180 for name in names)


def test_pairs_repeat_with_the_seed_and_differ_without() -> None:
    names = [f"owl-{number}" for number in range(6)]

    def drawn(seed: int | str) -> list[tuple[str, str]]:
        return [pair(names, seed, number) for number in range(30)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    with pytest.raises(RequestError, match="two at least"):
        pair(["alone", "alone"], 1, 0)


def test_votes_are_read_from_records_and_others_left_out() -> None:
    whole = {"a": "x", "b": "y", "verdict": "tie", "blind": True, "time": "now"}
    broken = [{}, {"a": "x"}, {**whole, "verdict": "draw"}, {**whole, "b": "x"}, {**whole, "a": 3}]
    assert read([whole, *broken, {**whole, "blind": False}]) == [Vote("x", "y", "tie"), Vote("x", "y", "tie", False)]
    with pytest.raises(DataError, match="expected one of a, b, tie, bad"):
        Vote("x", "y", "draw")
    with pytest.raises(DataError, match="itself"):
        Vote("x", "x", "a")
