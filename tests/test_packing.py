"""Packing: budgets, layout, and that a packed row learns what its samples would alone."""

import random

import pytest
import torch

from mplug_owl.data.encode import IGNORED, Encoded
from mplug_owl.data.packing import block_diagonal, lay_out, pack
from tests.owls import TINY, Rows, media, random_owl


def row(*ids: int, learnt: int = 1) -> Encoded:
    """Ids of which the last few are learnt."""
    labels = [IGNORED] * (len(ids) - learnt) + list(ids[len(ids) - learnt :])
    return Encoded(list(ids), labels, [])


@pytest.mark.parametrize("seed", range(5))
def test_every_sample_lies_in_one_row_within_the_budgets(seed: int) -> None:
    dice = random.Random(seed)
    tokens = [dice.randint(1, 100) for _ in range(300)]
    images = [dice.choice([0, 1, 1, 4]) for _ in range(300)]
    rows = pack(tokens, images, max_tokens=100, max_images=6)
    assert sorted(index for row in rows for index in row) == list(range(300))
    for members in rows:
        assert members == sorted(members)
        assert sum(tokens[index] for index in members) <= 100
        assert sum(images[index] for index in members) <= 6
    assert [members[0] for members in rows] == sorted(members[0] for members in rows)
    assert rows == pack(tokens, images, max_tokens=100, max_images=6)


def test_rows_are_nearly_full() -> None:
    dice = random.Random(0)
    tokens = [min(int(dice.lognormvariate(5.3, 0.9)) + 10, 2048) for _ in range(256)]
    rows = pack(tokens, [0] * 256, max_tokens=2048, max_images=1)
    assert sum(tokens) / (2048 * len(rows)) > 0.95


def test_a_sample_over_the_image_budget_has_its_own_row() -> None:
    assert pack([10, 10, 10], [9, 0, 1], max_tokens=100, max_images=4) == [[0], [1, 2]]


def test_layout() -> None:
    laid = lay_out([[row(5, 6, 7), row(8, 9, learnt=2)], [row(4, 3)], []], pad_id=1)
    assert {name: tuple(value.shape) for name, value in laid.items()} == {
        name: (3, 64) for name in ("input_ids", "labels", "position_ids", "segments")
    }
    assert laid["input_ids"][0, :6].tolist() == [5, 6, 7, 8, 9, 1]
    # 8 opens its sample: nothing of its own stands before it, so it is not learnt.
    assert laid["labels"][0, :6].tolist() == [IGNORED, IGNORED, 7, IGNORED, 9, IGNORED]
    assert laid["position_ids"][0, :7].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert laid["segments"][0, :6].tolist() == [1, 1, 1, 2, 2, 0]
    assert laid["segments"][2].eq(0).all()


def test_samples_see_only_themselves() -> None:
    mask = block_diagonal(torch.tensor([[1, 1, 2, 2, 0, 0]]))
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("family", TINY)
def test_packed_loss_and_gradients_are_those_of_the_samples(family: str) -> None:
    model = random_owl(family).train()
    rows = Rows(model)
    parts = [(7, "image", 5), (11,), ("image", 3, "image", 9), (4, ("video", 2), 6)]
    drawn = [rows.row(*part) for part in parts]
    samples = [Encoded(r.ids, [IGNORED] * (len(r.ids) - 3) + r.ids[-3:], []) for r in drawn]
    results = []
    for layout in ([[0, 1], [2, 3]], [[0], [1], [2], [3]]):
        model.zero_grad()
        laid = lay_out([[samples[i] for i in members] for members in layout], pad_id=0)
        loss = model(
            input_ids=laid["input_ids"],
            position_ids=laid["position_ids"],
            attention_mask=block_diagonal(laid["segments"]),
            labels=laid["labels"],
            use_cache=False,
            **media(drawn),
        ).loss
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), grads))
    alone = sum(
        3 * model(torch.tensor([s.ids]), labels=torch.tensor([s.labels]), **media([r])).loss
        for s, r in zip(samples, drawn, strict=True)
    )
    (packed, packed_grads), (apart, apart_grads) = results
    assert packed == pytest.approx(float(apart), rel=1e-9)
    assert packed == pytest.approx(float(alone.detach()) / 12, rel=1e-9)
    assert torch.allclose(packed_grads, apart_grads, rtol=1e-9, atol=1e-9)
