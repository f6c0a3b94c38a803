"""LoRA on the language model, and the adapter folder that a run with LoRA leaves behind.

The folder holds everything the run changed: the LoRA matrices as peft writes them, every other trained parameter
beside them, which base they belong to, the processor and the recipe. Reading it back is the business of
`models/adapters.py`, which needs no recipe. When to save is not known here.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mplug_owl import settings
from mplug_owl.errors import ConfigError, did_you_mean
from mplug_owl.models.adapters import CHANGED, Identity, native_name, write_base
from mplug_owl.models.owl import OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor
from mplug_owl.train.recipe import Lora, Recipe

INSTALL = 'pip install "mplug_owl[train]"'


def apply(model: OwlForConditionalGeneration, wish: Lora, *, seed: int = 0) -> None:
    """Put LoRA matrices on the linear layers of the language model that `wish.targets` name.

    Every rank makes the same matrices from `seed`; the global random state is left as it was.

    Raises:
        ConfigError: a target names no linear layer of this family, or peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError(f"LoRA needs peft, which is not installed; {INSTALL}") from None
    known = linear_names(model)
    for target in wish.targets:
        if target not in known:
            raise ConfigError(
                f"lora.targets: {target!r} is no linear layer of this language model{did_you_mean(target, known)}"
            )
    config = LoraConfig(
        r=wish.rank,
        lora_alpha=wish.alpha,
        lora_dropout=wish.dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(map(re.escape, wish.targets))})",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)


def linear_names(model: OwlForConditionalGeneration) -> set[str]:
    """What the linear layers of the language model are called, each by the end of its name."""
    decoder = model.model.language_model
    return {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}


def save_adapter(
    model: OwlForConditionalGeneration,
    folder: str | Path,
    *,
    recipe: Recipe,
    processor: OwlProcessor,
    base: Identity,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the adapter folder; one that is there already is replaced once the new one is whole.

    `base` is `adapters.identity` of the model before `prepare`. `weights` are the trained parameters by name; give
    them where the model's own are sharded.

    Raises:
        ConfigError: the model has no LoRA, so there is nothing an adapter could hold.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        raise ConfigError("this model has no LoRA; save it whole, with save_pretrained")
    if weights is None:
        weights = {n: w.detach() for n, w in model.named_parameters() if w.requires_grad}
    matrices, changed = {}, {}
    for name, weight in weights.items():
        kept = weight.detach().cpu().contiguous()
        if ".lora_" in name:
            matrices["base_model.model." + name.replace(".default.", ".")] = kept
        else:
            changed[native_name(name)] = kept
    folder = Path(folder)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    replace(config, base_model_name_or_path=base.name, inference_mode=True).save_pretrained(part)
    save_file(matrices, part / "adapter_model.safetensors", {"format": "pt"})
    save_file(changed, part / CHANGED, {"format": "pt"})
    write_base(base, part)
    processor.save_pretrained(part)
    (part / "recipe.json").write_text(settings.dump(recipe), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
