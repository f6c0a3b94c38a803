"""Learning rates, clipping and the optimizer's state by name."""

import math

import pytest
import torch

from mplug_owl.errors import ConfigError
from mplug_owl.train import optim
from mplug_owl.train.recipe import Optim


def rates(steps: int, floor: float = 0.0, **fields: object) -> list[float]:
    settings = Optim(steps=steps, **fields)  # type: ignore[arg-type]
    return [optim.rate(step, steps, settings, floor) for step in range(steps)]


def test_warm_up_climbs_to_one_and_every_step_learns() -> None:
    for schedule in ("cosine", "linear", "constant"):
        found = rates(10, schedule=schedule, warmup_steps=4)
        assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
        assert all(rate > 0 for rate in found)


def test_cosine_linear_and_constant_have_their_shapes() -> None:
    assert rates(4, schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(3, schedule="constant") == [1.0, 1.0, 1.0]
    assert rates(4, schedule="cosine") == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])


def test_the_floor_is_the_end_of_the_schedule() -> None:
    settings = Optim(steps=5, schedule="cosine")
    assert optim.rate(5, 5, settings, 0.1) == pytest.approx(0.1)
    assert min(rates(50, floor=0.1, schedule="linear")) >= 0.1


def test_the_floor_scales_with_each_modules_rate() -> None:
    groups = [{"lr": 1e-3}, {"lr": 1e-4}]
    assert optim.floor_share(groups, Optim(steps=1, min_lr=1e-5)) == pytest.approx(0.01)
    with pytest.raises(ConfigError, match=r"min_lr=0\.1"):
        optim.floor_share(groups, Optim(steps=1, min_lr=0.1))


def test_set_rate_moves_every_group_from_its_own_peak() -> None:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr, "weight_decay": 0.0, "name": "x"}
        for lr in (1e-3, 1e-4)
    ]
    optimizer = optim.adamw(groups, Optim(steps=1))
    optim.set_rate(optimizer, 0.5)
    optim.set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [2.5e-4, 2.5e-5]


def test_clipping_scales_to_the_limit_and_returns_the_norm_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optim.clip([parameter], 0.0) == pytest.approx(5.0)
    assert parameter.grad.tolist() == [3.0, 4.0]
    assert optim.clip([parameter], 1.0) == pytest.approx(5.0)
    assert parameter.grad.norm().item() == pytest.approx(1.0)
    assert optim.clip([parameter], 2.0) == pytest.approx(1.0)
    assert parameter.grad.norm().item() == pytest.approx(1.0)


def test_the_state_is_there_before_the_first_step_and_changes_nothing() -> None:
    def step(ask_first: bool) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = optim.adamw([{"params": [parameter], "lr": 0.1, "weight_decay": 0.1, "name": "x"}], Optim(steps=1))
        if ask_first:
            state = optim.state(optimizer, {"w": parameter})
            assert state["w"].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for _ in range(3):
            parameter.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
            optimizer.step()
        return parameter.detach()

    assert torch.equal(step(True), step(False))
