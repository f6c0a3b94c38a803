"""One owl on one process or many: who holds what, and how gradients meet.

`join` makes this process part of the run that torchrun started. `arrange` spreads an owl: every rank a whole copy
(`Replicas`) or every rank a shard of each tensor (`Shards`, FSDP2). Both keep trained parameters and their gradients
in full precision and let the owl compute in the recipe's; both sum gradients over ranks. The order is: freeze and
adapters (stages.py), activation checkpointing, compile, spread, optimizer. Nothing here knows data or steps.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from mplug_owl.errors import ConfigError
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.train.objective import Objective
from mplug_owl.train.recipe import Compute

PATIENCE = timedelta(minutes=20)  # a rank silent for so long is dead; loading 7B takes minutes
BUCKET = 1 << 25  # numbers in one all-reduce: large enough for the network, small enough to overlap


@dataclass(frozen=True)
class World:
    """The processes of a run and this one's place among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Everybody's `item`, by rank."""
        if self.size == 1:
            return [item]
        items = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def broadcast(self, item: Any) -> Any:
        """The first rank's `item`."""
        if self.size == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0)
        return items[0]


def join() -> World:
    """Take part in the run that torchrun describes in the environment; alone without one."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    return World(rank, size, device)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def joined() -> Iterator[World]:
    """Take part while this is open; of several, one inside the other, the outermost counts. Processes can meet only
    once under one torchrun.
    """
    outermost = not dist.is_initialized()
    world = join()
    try:
        yield world
    finally:
        if outermost:
            leave()


def layers(owl: nn.Module) -> list[nn.Module]:
    """The repeated layers of all three modules: what is checkpointed, compiled and sharded."""
    return [module for module in owl.modules() if isinstance(module, GradientCheckpointingLayer)]


def arrange(
    owl: OwlForConditionalGeneration, groups: Sequence[Mapping[str, Any]], compute: Compute, world: World
) -> "Replicas | Shards":
    """Spread an owl over the ranks. Only the first rank's weights count: others may be on meta."""
    names = {id(parameter): name for name, parameter in owl.named_parameters()}
    named = [{**group, "params": [names[id(p)] for p in group["params"]]} for group in groups]
    training_mode(owl)
    if compute.checkpoint_activations:
        owl.activation_checkpointing_enable()
    if compute.compile:
        for layer in layers(owl):
            layer.compile()
    objective = Objective(owl)
    if world.size > 1 and compute.parallel != "ddp":
        return Shards(objective, named, compute, world)
    return Replicas(objective, named, compute, world)


def training_mode(owl: OwlForConditionalGeneration) -> None:
    """Training, but for f_V and f_K where they are frozen as a whole: there nothing drops out."""
    owl.train()
    for part in (owl.model.vision, owl.model.abstractor):
        part.train(any(parameter.requires_grad for parameter in part.parameters()))


def rebuild(owl: nn.Module, make: Callable[[str, Tensor], Tensor]) -> None:
    """Replace every parameter and buffer by what `make` makes of it; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    kept = []  # an id is only unique while its owner lives
    for path, module in owl.named_modules():
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is None:
                    continue
                if id(old) not in made:
                    kept.append(old)
                    new = make(f"{path}.{name}".removeprefix("."), old)
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=old.requires_grad)
                    made[id(old)] = new
                table[name] = made[id(old)]


def tensors_of(owl: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, also those that are never saved."""
    return {n: t.detach() for n, t in (*owl.named_parameters(), *owl.named_buffers())}


def hand_out(owl: nn.Module, whole: Mapping[str, Tensor], world: World) -> None:
    """Give every tensor of the owl its value, or this rank's shard of it, from `whole` of the first rank; one tensor
    after the other, so nobody needs room for two copies.
    """
    forms = world.broadcast({n: (tuple(t.shape), t.dtype) for n, t in whole.items()})

    def make(name: str, old: Tensor) -> Tensor:
        if world.is_first:
            value = whole[name].to(world.device)
        else:
            shape, dtype = forms[name]
            value = torch.empty(shape, dtype=dtype, device=world.device)
        if isinstance(old, DTensor):
            return distribute_tensor(value.contiguous(), old.device_mesh, old.placements)
        if world.size > 1:
            value = value.contiguous()
            dist.broadcast(value, src=0)
        return value

    rebuild(owl, make)


class Replicas:
    """Every rank holds the whole owl. The owl's own parameters have the compute dtype; beside them stand the trained
    values in full precision, which the optimizer moves, with gradients that are added up in full precision in a few
    flat buffers, one all-reduce each.

    No hook waits for a particular parameter, so a rank may leave any of them unused.
    """

    def __init__(
        self, objective: Objective, groups: Sequence[Mapping[str, Any]], compute: Compute, world: World
    ) -> None:
        self.objective, self.world = objective, world
        self.owl = objective.owl
        hand_out(self.owl, tensors_of(self.owl), world)
        here = dict(self.owl.named_parameters())
        trained = [name for group in groups for name in group["params"]]
        self.computing = {name: here[name] for name in trained}
        self.trained = {name: nn.Parameter(here[name].detach()) for name in trained}
        for parameter in self.computing.values():
            parameter.data = parameter.data.to(getattr(torch, compute.dtype))
        self.groups = [{**g, "params": [self.trained[n] for n in g["params"]]} for g in groups]
        # Backward reaches the last parameters first.
        self.buckets = _Bucket.fill([(self.computing[n], self.trained[n]) for n in trained[::-1]])
        self.is_last = False
        for bucket in self.buckets:
            bucket.listen(self._arrived)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add a micro-batch's gradients; those of the last one meet the other ranks' at once."""
        self.is_last = is_last
        torch.autograd.backward(loss)

    def _arrived(self, at: "_Bucket") -> None:
        """Send full buckets off, in one order on all ranks."""
        if self.is_last and self.world.size > 1:
            at.missing -= 1
            for bucket in self.buckets:
                if bucket.work is None:
                    if bucket.missing:
                        break
                    bucket.send()

    def meet(self) -> None:
        """After the window: every rank has the sum of all gradients."""
        for bucket in self.buckets:
            if self.world.size > 1 and bucket.work is None:
                bucket.send()
        for bucket in self.buckets:
            bucket.finish()
        self.is_last = False

    def moved(self) -> None:
        """After the optimizer, or a restored checkpoint: the owl takes the trained values over."""
        with torch.no_grad():
            for name, parameter in self.computing.items():
                if parameter.dtype != self.trained[name].dtype:
                    parameter.copy_(self.trained[name])

    def forget(self) -> None:
        """Gradients to zero, ready for the next window."""
        for bucket in self.buckets:
            bucket.flat.zero_()

    def trained_whole(self) -> dict[str, Tensor]:
        """The trained parameters in full precision, on the CPU of the first rank."""
        return {n: t.detach().cpu() for n, t in self.trained.items()} if self.world.is_first else {}

    def state_whole(self) -> dict[str, Tensor]:
        """The owl's state in the compute dtype, on the CPU of the first rank."""
        return self.owl.state_dict() if self.world.is_first else {}

    @contextmanager
    def gathered(self) -> Iterator[OwlForConditionalGeneration]:
        """The owl in a state in which it can generate."""
        yield self.owl


class _Bucket:
    """Gradients of several parameters in one flat buffer."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.pairs = pairs
        first = pairs[0][1]
        total = sum(trained.numel() for _, trained in pairs)
        self.flat = torch.zeros(total, dtype=first.dtype, device=first.device)
        parts = torch.split(self.flat, [trained.numel() for _, trained in pairs])
        for (_, trained), part in zip(pairs, parts, strict=True):
            trained.grad = part.view_as(trained)
        self.missing = len(pairs)
        self.work: dist.Work | None = None

    @classmethod
    def fill(cls, pairs: Sequence[tuple[Tensor, Tensor]]) -> list["_Bucket"]:
        rooms: list[list[tuple[Tensor, Tensor]]] = [[]]
        for pair in pairs:
            if rooms[-1] and sum(t.numel() for _, t in rooms[-1]) + pair[1].numel() > BUCKET:
                rooms.append([])
            rooms[-1].append(pair)
        return [cls(room) for room in rooms]

    def listen(self, arrived: Callable[["_Bucket"], None]) -> None:
        for computing, trained in self.pairs:

            def add(parameter: Tensor, into: Tensor = trained) -> None:
                into.grad.add_(parameter.grad)  # type: ignore[union-attr,arg-type]
                parameter.grad = None
                arrived(self)

            computing.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]

    def send(self) -> None:
        self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self) -> None:
        if self.work is not None:
            self.work.wait()
        self.work, self.missing = None, len(self.pairs)


class Shards:
    """Every rank holds a shard of every tensor (FSDP2), or every group of ranks does (HSDP).

    Layers are units of their own; what is left belongs to the root.
    """

    def __init__(
        self, objective: Objective, groups: Sequence[Mapping[str, Any]], compute: Compute, world: World
    ) -> None:
        self.objective, self.world = objective, world
        self.owl = objective.owl
        whole = tensors_of(self.owl)
        rebuild(self.owl, lambda name, tensor: torch.empty_like(tensor, device="meta"))
        self.dtype = getattr(torch, compute.dtype)
        policy = MixedPrecisionPolicy(
            param_dtype=self.dtype, reduce_dtype=torch.promote_types(self.dtype, torch.float32)
        )
        mesh = mesh_of(compute, world)
        for layer in layers(self.owl):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=policy)
        hand_out(self.owl, whole, world)
        here = dict(self.owl.named_parameters())
        trained = [name for group in groups for name in group["params"]]
        self.trained = {name: here[name] for name in trained}
        self.groups = [{**g, "params": [self.trained[n] for n in g["params"]]} for g in groups]

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Gradients are summed at once, so that no rank ever holds whole ones."""
        torch.autograd.backward(loss * self.world.size)  # FSDP takes the mean over ranks; the loss is a share

    def meet(self) -> None:
        for parameter in self.trained.values():
            if parameter.grad is None:  # used by no rank; a gradient of zero, as with replicas
                parameter.grad = torch.zeros_like(parameter, requires_grad=False)

    def moved(self) -> None:
        pass

    def forget(self) -> None:
        for parameter in self.trained.values():
            parameter.grad = None

    def trained_whole(self) -> dict[str, Tensor]:
        """The trained parameters in full precision, on the CPU of the first rank."""
        return self._collected({name: tensor.detach() for name, tensor in self.trained.items()})

    def state_whole(self) -> dict[str, Tensor]:
        """The owl's state in the compute dtype, on the CPU of the first rank."""
        every = dict(self.owl.named_parameters(remove_duplicate=False))
        once = dict(self.owl.named_parameters())
        state = self.owl.state_dict()
        # A tied tensor is written once: gathered twice it would no longer be seen to be one.
        kept = {name: t for name, t in state.items() if name in once or name not in every}
        return {
            name: tensor.to(self.dtype) if name in once else tensor for name, tensor in self._collected(kept).items()
        }

    def _collected(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One tensor after the other, so that no GPU holds more than one of them whole."""
        out = {}
        for name, tensor in tensors.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.is_first:
                out[name] = whole.cpu()
        return out

    @contextmanager
    def gathered(self) -> Iterator[OwlForConditionalGeneration]:
        """The owl in a state in which it can generate, all ranks together."""
        self.objective.unshard()  # type: ignore[operator]
        try:
            yield self.owl
        finally:
            self.objective.reshard()  # type: ignore[operator]


def mesh_of(compute: Compute, world: World) -> DeviceMesh:
    if compute.parallel == "fsdp":
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    group = compute.shard_group
    if not group or world.size % group:
        raise ConfigError(
            f"compute.shard_group={group} with {world.size} ranks; hsdp needs a divisor of them, "
            "usually the GPUs of one machine"
        )
    shape = (world.size // group, group)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))
