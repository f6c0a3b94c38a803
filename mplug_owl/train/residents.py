"""What lies in a GPU's memory whatever the batch: weights, optimizer state, gathered layers.

Weights come from a model on the meta device, in the dtypes the run gives them. What a forward pass leaves behind is
not known here.
"""

from collections import Counter
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
    kinds: Counter[str] = Counter()
    trained = 0
    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.nbytes // count
            kinds[f"weights in {_plain(weight.dtype)}"] += weight.nbytes // count
        # Copies compute with their own rounded weights; shards are rounded when gathered.
        if not weight.requires_grad or (count == 1 and weight.dtype != dtype):
            kinds[f"weights in {_plain(dtype)}"] += weight.numel() * dtype.itemsize // count
    kinds["buffers"] = sum(buffer.nbytes for buffer in model.buffers())
    kinds["gradients"] = trained
    kinds["optimizer state"] = 2 * trained  # AdamW: two moments in the dtype of the weight
    if count > 1:
        kinds["gathered layers"] = _gathered(model, dtype.itemsize)
    return dict(kinds)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gathered(model: nn.Module, itemsize: int) -> int:
    """Bytes of whole weights and gradients under sharding. What belongs to no layer stays gathered for the step; of
    the layers there are the weights of two (one is fetched ahead) and the gradients of one.
    """

    def weights(unit: Iterable[nn.Parameter]) -> int:
        return sum(w.numel() * itemsize for w in unit)

    def gradients(unit: Iterable[nn.Parameter]) -> int:
        """In the compute dtype and, on their way to the shards, in the trained one."""
        return sum(w.numel() * (itemsize + w.itemsize) for w in unit if w.requires_grad)

    units = [list(layer.parameters()) for layer in layers(model)]
    rest = set(model.parameters()).difference(*units)
    return weights(rest) + gradients(rest) + 2 * max(map(weights, units)) + max(map(gradients, units))
