"""Adapter folders: everything a fine-tune changed, put back onto the base it was made from.

A folder holds LoRA matrices in peft's format, every other parameter the fine-tune trained (abstractor, visual branch
...), the identity of the base, and the processor. A base that differs from the one the adapter was trained on is
refused. How an adapter comes to be is not known here.
"""

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig

from mplug_owl.errors import CheckpointError, ConfigError
from mplug_owl.models.owl import OwlConfig, OwlForConditionalGeneration
from mplug_owl.models.processor import OwlProcessor

BASE = "base.json"
CHANGED = "changed.safetensors"
SAMPLES = 256  # values of each tensor that enter the hash; all, of a tensor that has fewer
# What a configuration says about its file rather than about the model.
_NOISE = {"architectures", "dtype", "transformers_version", "model_type", "_name_or_path"}


@dataclass(frozen=True)
class Identity:
    """Which model: the name it was opened by, and hashes that hold whatever it is called."""

    name: str
    config: str
    """Hash of the settings that differ from the defaults."""
    content: str
    """Hash over name, shape and sampled values of every tensor, whatever dtype it is loaded in."""

    def __str__(self) -> str:
        return f"{self.name!r} (config {self.config[:12]}, weights {self.content[:12]})"


def identity(model: OwlForConditionalGeneration, name: str | Path) -> Identity:
    """The identity of `model`, opened by `name`, as long as nothing has been trained or added."""
    place = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
    return Identity(place, _config_hash(model.config), fingerprint(model))


def fingerprint(model: nn.Module) -> str:
    """A hash over name, shape and sampled values of every weight, whatever dtype it is loaded in."""
    digest = hashlib.sha256()
    for tensor_name, weight in sorted(model.named_parameters()):
        if weight.is_meta:
            raise ConfigError(f"{tensor_name} is on the meta device; take the fingerprint of a loaded model")
        count = weight.numel()
        sampled = min(count, SAMPLES)
        picked = torch.arange(sampled) * count // max(1, sampled)
        # The coarsest dtype a model is loaded in: the hash is the same in all of them.
        values = weight.detach().flatten()[picked.to(weight.device)].to(torch.bfloat16).cpu()
        digest.update(f"{tensor_name} {list(weight.shape)} ".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _config_hash(config: OwlConfig) -> str:
    parts = (config.vision_config, config.abstractor_config, config.text_config)
    settings = [{"model_type": part.model_type, **_set_fields(part)} for part in parts]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _set_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields that differ from their defaults, so that new ones in the library change nothing."""
    defaults = type(config)().to_dict()
    return {
        key: _set_fields(getattr(config, key)) if key in config.sub_configs else value
        for key, value in config.to_dict().items()
        if key not in _NOISE and value != defaults.get(key)
    }


def write_base(base: Identity, folder: Path) -> None:
    (folder / BASE).write_text(json.dumps(asdict(base), indent=2) + "\n", encoding="utf-8")


def read_base(folder: str | Path) -> Identity:
    """The base an adapter was trained on."""
    path = Path(folder) / BASE
    try:
        return Identity(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {BASE}; expected an adapter folder, as owl train writes it") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy the folder again") from None


def native_name(name: str) -> str:
    """The name of a parameter in a model without LoRA."""
    return name.replace(".base_layer.", ".")


def apply_adapter(
    model: OwlForConditionalGeneration, folder: str | Path, *, name: str | Path
) -> OwlForConditionalGeneration:
    """Put the adapter of `folder` onto `model`, the base opened by `name`; LoRA stays apart.

    Raises:
        CheckpointError: the folder is damaged, or was trained on another base.
    """
    folder = Path(folder)
    base = read_base(folder)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(f"{name} carries an adapter already; open the base again, without it")
    found = identity(model, name)
    if (found.config, found.content) != (base.config, base.content):
        raise CheckpointError(
            f"adapter {folder} was trained on {base}, but the model is {found}; open it with the base it was trained on"
        )
    _restore_changed(model, folder / CHANGED)
    conversions = getattr(model, "_weight_conversions", None)
    try:
        info = model.load_adapter(str(folder))
    except ImportError:
        raise ConfigError('an adapter needs peft, which is not installed; pip install "mplug_owl[train]"') from None
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: the LoRA matrices cannot be read ({reason})") from None
    # The library would save the merged model under the names of the adapter file.
    model._weight_conversions = conversions
    wrong = [*info.missing_keys, *info.unexpected_keys, *info.mismatched_keys]
    if wrong:
        raise CheckpointError(
            f"{folder}: {len(wrong)} LoRA tensor(s) missing, unexpected or of another shape than "
            f"adapter_config.json says, first {min(map(str, wrong))}; copy the folder again"
        )
    return model.eval()


def _restore_changed(model: nn.Module, path: Path) -> None:
    try:
        changed = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); it holds what was trained without LoRA: copy the adapter folder again"
        ) from None
    weights = dict(model.named_parameters())
    for name, tensor in changed.items():
        if name not in weights or weights[name].shape != tensor.shape:
            shape = list(weights[name].shape) if name in weights else "nothing of that name"
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensor.shape)}, the base has {shape}; copy the adapter folder again"
            )
    with torch.no_grad():
        for name, tensor in changed.items():
            weights[name].copy_(tensor)


@torch.no_grad()
def fold(model: OwlForConditionalGeneration) -> OwlForConditionalGeneration:
    """Add LoRA into the weights it stands beside: the same model, without a trace of peft."""
    layers = [(n, m) for n, m in model.named_modules() if hasattr(m, "get_delta_weight")]
    if not layers:
        raise ConfigError("this model has no LoRA to fold in; apply an adapter first")
    for name, layer in layers:
        linear = layer.get_base_layer()
        # One rounding, at the end: a bfloat16 sum of bfloat16 parts would lose small changes.
        exact = torch.promote_types(linear.weight.dtype, torch.float32)
        total = linear.weight.to(exact)
        for adapter in layer.active_adapters:
            total = total + layer.get_delta_weight(adapter).to(exact)
        linear.weight.copy_(total)
        model.set_submodule(name, linear)
    model._hf_peft_config_loaded = False
    del model.peft_config
    return model


def merge(
    adapter: str | Path, out: str | Path, *, base: str | Path | None = None, dtype: str | torch.dtype = "auto"
) -> None:
    """Write the base with the adapter folded in as an ordinary native folder.

    `base` is needed only where the one the adapter names lies elsewhere now.
    """
    from mplug_owl.models import load  # it opens any owl, and stands above this file

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not empty; give a new folder, or empty it")
    name = read_base(adapter).name if base is None else base
    model, _ = load(name, device="cpu", dtype=dtype)
    fold(apply_adapter(model, adapter, name=name)).save_pretrained(out)
    OwlProcessor.from_pretrained(adapter).save_pretrained(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl merge`."""
    parser.add_argument("adapter", metavar="ADAPTER", help="adapter folder, as owl train writes it")
    parser.add_argument("out", metavar="OUT", help="new folder")
    parser.add_argument("--base", help="the base, where it is not what the adapter names")
    parser.add_argument("--dtype", default="auto", help="auto (that of the base), bfloat16, float16, float32")


def run(arguments: argparse.Namespace) -> int:
    """`owl merge`."""
    merge(arguments.adapter, arguments.out, base=arguments.base, dtype=arguments.dtype)
    print(f"written to {arguments.out}")
    return 0
