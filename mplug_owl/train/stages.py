"""What a stage trains: the modules its recipe names, and nothing else.

`prepare` freezes an owl, adds LoRA where the recipe asks for it, settles the dtypes and returns the optimizer's
parameter groups. `check_promise` holds the result against the recipe and `table` shows it. How gradients come about
and what an optimizer does with a group, this file does not know.
"""

import re
from typing import Any

import torch
from torch import nn

from mplug_owl.errors import ConfigError
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.train import lora
from mplug_owl.train.recipe import MODULES, Recipe

_LAYER = re.compile(r"\.(?:layers?|h)\.(\d+)\.")
_INPUTS = ("embeddings.", "embed_tokens.", "word_embeddings", "query_tokens")


def module_of(name: str) -> str:
    """The module of a recipe that a parameter belongs to."""
    if ".lora_" in name:
        return "lora"
    if name.startswith("model.vision."):
        return "vision"
    if name.startswith("model.abstractor."):
        return "abstractor"
    return "visual" if ".visual_" in name else "language"


def prepare(model: OwlForConditionalGeneration, recipe: Recipe) -> list[dict[str, Any]]:
    """Make `model` train what `recipe` says; return the optimizer's parameter groups.

    Trained parameters become float32 (float64 under float64), frozen ones the compute dtype. Works on the meta device
    too. What replaces parameters afterwards, such as sharding, makes the groups stale: ask `parameter_groups` for new
    ones then.
    """
    if recipe.compute.attention != "sdpa":  # what a model has by itself
        model.set_attn_implementation(recipe.compute.attention)
    if recipe.lora is not None:
        lora.apply(model, recipe.lora, seed=recipe.seed)
    compute = getattr(torch, recipe.compute.dtype)
    exact = torch.promote_types(compute, torch.float32)
    for name, weight in model.named_parameters():
        trains = module_of(name) in recipe.train
        weight.requires_grad_(trains)
        weight.data = weight.data.to(exact if trains else compute)
    check_promise(model, recipe)
    return parameter_groups(model, recipe)


def check_promise(model: nn.Module, recipe: Recipe) -> None:
    """Compare what would train with what the recipe says.

    Raises:
        ConfigError: a parameter trains without being promised, is promised without training, or a
            promised module is empty.
    """
    present = set()
    for name, weight in model.named_parameters():
        module = module_of(name)
        present.add(module)
        promised = module in recipe.train
        if weight.requires_grad != promised:
            raise ConfigError(
                f"{name} is {'trainable' if weight.requires_grad else 'frozen'}, but recipe "
                f"{recipe.name!r} says that module {module!r} is "
                f"{'trained' if promised else 'frozen'}; call prepare before anything that "
                "changes requires_grad"
            )
    for module in recipe.train:
        if module not in present:
            raise ConfigError(
                f"recipe {recipe.name!r} trains {module!r}, but this owl has no such parameters; "
                f"it has {', '.join(name for name in MODULES if name in present)}: remove "
                f"train.{module} or take another family"
            )


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups with `params`, `lr`, `weight_decay` and `name` over the trainable parameters.

    Biases and norm weights never decay. With layer decay, each layer is a group of its own.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    layers = {
        module: 1 + max((_layer(n) or 0 for n, _ in trained if module_of(n) == module), default=0)
        for module in recipe.train
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, weight in trained:
        module = module_of(name)
        wish = recipe.train[module]
        label, lr, decay = module, wish.lr, wish.weight_decay
        if wish.layer_decay != 1.0:
            place, below = _place(name, layers[module])
            label, lr = f"{label}.{place}", lr * wish.layer_decay**below
        if decay and weight.ndim < 2:
            label, decay = f"{label}.no_decay", 0.0
        group = {"params": [], "lr": lr, "weight_decay": decay, "name": label}
        groups.setdefault(label, group)["params"].append(weight)
    return list(groups.values())


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _place(name: str, layers: int) -> tuple[str, int]:
    """Where in its module a parameter stands, and how many layers that is below the last."""
    layer = _layer(name)
    if layer is not None:
        return f"layers.{layer}", layers - 1 - layer
    return ("inputs", layers) if any(part in name for part in _INPUTS) else ("outputs", 0)


def table(model: nn.Module) -> str:
    """Trainable and frozen parameters of each module, with their dtypes."""
    trainable, frozen = dict.fromkeys(MODULES, 0), dict.fromkeys(MODULES, 0)
    dtypes: dict[str, set[str]] = {module: set() for module in MODULES}
    for name, weight in model.named_parameters():
        module = module_of(name)
        (trainable if weight.requires_grad else frozen)[module] += weight.numel()
        dtypes[module].add(str(weight.dtype).removeprefix("torch."))
    rows = [
        (module, trainable[module], frozen[module], ", ".join(sorted(dtypes[module])))
        for module in MODULES
        if dtypes[module]
    ]
    rows.append(("all", sum(trainable.values()), sum(frozen.values()), ""))
    lines = [f"{'module':<12}{'trainable':>16}{'frozen':>16}{'share':>8}  dtype"]
    for module, trains, stays, kinds in rows:
        share = trains / (trains + stays)
        lines.append(f"{module:<12}{trains:>16,}{stays:>16,}{share:>8.2%}  {kinds}".rstrip())
    return "\n".join(lines)
