"""What lies in a GPU's memory whatever the batch: weights, optimizer state, gathered layers.

Weights come from a model on the meta device, in the dtypes the run gives them. What a forward pass leaves behind is
not known here.
"""

from collections.abc import Iterable

import torch
from torch import nn

from mplug_owl.errors import ConfigError
from mplug_owl.train.parallel import layers
from mplug_owl.train.recipe import Compute


def shards(compute: Compute, gpus: int) -> int:
    """GPUs that share one copy of weights, gradients and optimizer state."""
    if compute.parallel == "ddp" or gpus == 1:
        return 1
    group = gpus if compute.parallel == "fsdp" else compute.shard_group
    if not group or gpus % group:
        raise ConfigError(
            f"compute.shard_group={group} with {gpus} GPUs; hsdp needs a divisor of them, usually "
            "the GPUs of one machine"
        )
    return group


def residents(model: nn.Module, count: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes on one of `count` GPUs that share a copy of `model`, which computes in `dtype`."""
    kinds: dict[str, int] = {}
    trained = 0

    def hold(name: str, size: int) -> None:
        kinds[name] = kinds.get(name, 0) + size // count

    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.nbytes // count
            hold(f"weights in {_plain(weight.dtype)}", weight.nbytes)
        # Copies compute with their own rounded weights; shards are rounded when gathered.
        if not weight.requires_grad or (count == 1 and weight.dtype != dtype):
            hold(f"weights in {_plain(dtype)}", weight.numel() * dtype.itemsize)
    kinds["buffers"] = sum(buffer.nbytes for buffer in model.buffers())
    kinds["gradients"] = trained
    kinds["optimizer state"] = 2 * trained  # AdamW: two moments in the dtype of the weight
    if count > 1:
        kinds["gathered layers"] = _gathered(model, dtype.itemsize)
    return kinds


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gathered(model: nn.Module, itemsize: int) -> int:
    """Bytes of whole weights and gradients under sharding. What belongs to no layer stays gathered for the step; of
    the layers there are the weights of two (one is fetched ahead) and the gradients of one.
    """
    units = [list(layer.parameters()) for layer in layers(model)]
    inside = {weight for unit in units for weight in unit}
    rest = _whole((weight for weight in model.parameters() if weight not in inside), itemsize)
    sizes = [_whole(unit, itemsize) for unit in units]
    return sum(rest) + 2 * max(weights for weights, _ in sizes) + max(g for _, g in sizes)


def _whole(group: Iterable[nn.Parameter], itemsize: int) -> tuple[int, int]:
    """Bytes of the weights in the compute dtype; of the gradients in that dtype and, on their way to the shards, in
    the trained one.
    """
    weights = list(group)
    gradients = sum(w.numel() * (itemsize + w.itemsize) for w in weights if w.requires_grad)
    return sum(w.numel() * itemsize for w in weights), gradients
