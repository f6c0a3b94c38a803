"""AdamW, the learning rate of a step, and clipping.

The rate is a pure function of the step, so nothing of it is ever saved. The optimizer's state is read and written by
parameter name, for checkpoints that any number of ranks can open. What trains and how it is spread over ranks is
decided elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mplug_owl.errors import ConfigError
from mplug_owl.train.recipe import Optim


def rate(step: int, steps: int, optim: Optim, floor: float = 0.0) -> float:
    """Factor on the learning rate at `step` (from 0) of `steps`; `floor` is its smallest value.

    Warm-up climbs in equal parts to 1, which its last step has; so its first step is not wasted.
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    done = (step - optim.warmup_steps) / max(steps - optim.warmup_steps, 1)
    shape = 1 - done if optim.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return floor + (1 - floor) * shape


def floor_share(groups: Sequence[Mapping[str, Any]], optim: Optim) -> float:
    """`min_lr` as a share of the largest learning rate; every module stops at this share of its own rate."""
    largest = max(group["lr"] for group in groups)
    if optim.min_lr > largest:
        raise ConfigError(f"optim.min_lr={optim.min_lr} is above the largest learning rate, {largest}: lower it")
    return optim.min_lr / largest if largest else 0.0


def adamw(groups: Sequence[Mapping[str, Any]], optim: Optim) -> torch.optim.AdamW:
    """Fused AdamW over groups with `params`, `lr`, `weight_decay`; `peak` keeps the rate."""
    own = [{**group, "peak": group["lr"]} for group in groups]
    return torch.optim.AdamW(own, betas=optim.betas, eps=optim.eps, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def clip(parameters: Sequence[Tensor], limit: float) -> float:
    """Scale all gradients so that their norm together is at most `limit` (0: leave them); the norm before that.

    Gradients that are sharded count with all their shards, so every rank gets the same number.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm(grads)
    if isinstance(total, DTensor):
        total = total.full_tensor()
    norm = float(total)
    if limit and math.isfinite(norm) and norm > limit:
        torch._foreach_mul_(grads, limit / norm)
    return norm


def state(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Any]:
    """The optimizer's tensors by parameter name, made if there was no step yet; reading into them restores the
    optimizer.
    """
    for parameter in names.values():
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                # Fused AdamW counts steps on the device, in float32.
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
    return {name: dict(optimizer.state[parameter]) for name, parameter in names.items()}
