"""Choosing tokens: the distributions of Transformers' own cuts, from one random number a token."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mplug_owl.engine import sampling as module
from mplug_owl.engine.sampling import Draw, Sampling, choose, logprobs
from mplug_owl.errors import RequestError

MANY = 20_000

WISHES = [
    Sampling(temperature=0.7),
    Sampling(temperature=1.5, top_k=5),
    Sampling(temperature=0.9, top_p=0.8),
    Sampling(temperature=1.2, min_p=0.1),
    Sampling(temperature=1.3, top_k=9, top_p=0.7, min_p=0.05),
]


def expected(scores: torch.Tensor, wish: Sampling) -> torch.Tensor:
    """The distribution that Transformers draws from."""
    cuts = LogitsProcessorList([TemperatureLogitsWarper(wish.temperature)])
    if wish.top_k:
        cuts.append(TopKLogitsWarper(wish.top_k))
    if wish.top_p < 1:
        cuts.append(TopPLogitsWarper(wish.top_p))
    if wish.min_p:
        cuts.append(MinPLogitsWarper(wish.min_p))
    return cuts(torch.zeros(1, 1, dtype=torch.long), scores[None])[0].softmax(-1)


@pytest.mark.parametrize("candidates", [4, 256])
@pytest.mark.parametrize("wish", WISHES)
def test_draws_follow_transformers(wish: Sampling, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", candidates)
    monkeypatch.setattr(module._pick_cut, "__defaults__", (candidates,))
    scores = 2 * torch.randn(30, generator=torch.Generator().manual_seed(1))
    draw = Draw(wish, [], 30)
    drawn = torch.tensor(choose(scores.repeat(MANY, 1), [draw] * MANY))
    shares = torch.bincount(drawn, minlength=30) / MANY
    goal = expected(scores, wish)
    assert (shares[goal == 0] == 0).all()
    assert (shares - goal).abs().max() < 0.015


def test_neighbours_and_their_number_change_nothing() -> None:
    scores = 3 * torch.randn(5, 1000, generator=torch.Generator().manual_seed(2))

    def draws() -> list[Draw]:
        return [Draw(Sampling(w.temperature, w.top_p, w.top_k, w.min_p, seed=9), [], 1000) for w in WISHES]

    together = draws()
    first, second = choose(scores.clone(), together), choose(scores.flip(0), together)
    for row, draw in enumerate(draws()):
        assert choose(scores[row : row + 1].clone(), [draw]) == [first[row]]
        assert choose(scores[4 - row : 5 - row].clone(), [draw]) == [second[row]]


def test_greedy_rows_draw_nothing_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    scores = torch.randn(2, 9, generator=torch.Generator().manual_seed(3))
    draws = [Draw(Sampling(), [], 9), Draw(Sampling(temperature=1.0, seed=1), [], 9)]
    assert choose(scores, draws)[0] == int(scores[0].argmax())
    assert torch.equal(before, torch.get_rng_state())


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(4))
    assert choose(scores.clone(), [Draw(Sampling(temperature=1e-30, seed=0), [], 50)]) == [int(scores.argmax())]


def test_repetition_penalty_counts_prompt_and_answer_but_no_media() -> None:
    wish = Sampling(repetition_penalty=2.0)
    draw = Draw(wish, [1, 70], 5)  # 70 is a media id
    scores = torch.tensor([[1.0, 4.0, 3.0, -1.0, -9.0]])
    assert choose(scores.clone(), [draw]) == [2]
    draw.note(2)
    assert choose(scores.clone(), [draw]) == [1]


def test_logprobs_are_sorted_and_sum_to_one() -> None:
    found, likely = logprobs(torch.tensor([1.0, 3.0, 2.0]), 2)
    assert float(found.exp().sum()) == pytest.approx(1)
    assert [token for token, _ in likely] == [1, 2]
    assert likely[0][1] == pytest.approx(float(found[1]))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_k": -2}, "top_k=-2"),
        ({"min_p": 1}, "min_p=1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
    ],
)
def test_values_out_of_range_are_refused(wish: dict[str, float], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Sampling(**wish)
