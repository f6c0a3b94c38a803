"""A folder of weights seen by name and shape, none of them read until asked for.

Safetensors are opened by header; `.bin` shards are mapped and unpickled with `weights_only`, which refuses code.
Shards are found through their index or by their names. What the tensors mean is decided elsewhere.
"""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from mplug_owl.errors import CheckpointError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def resolve_folder(name_or_path: str | Path, **hub: Any) -> Path:
    """A local folder as it is; anything else is taken for a hub repository and downloaded (or found in the cache)."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    name = str(name_or_path)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"{name!r} is no folder; expected a model folder, a family name or a hub name 'owner/model'"
        )
    patterns = ["*.json", "*.model", "*.tiktoken", "*.safetensors", "*.bin", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, **hub))
    except Exception as error:  # the hub library raises a dozen kinds; all mean "not here"
        raise CheckpointError(
            f"{name!r} is no local folder and could not be had from the hub "
            f"({type(error).__name__}); check the name and the network, or give the path of a "
            "downloaded folder"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json; expected a model folder") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}); download it again") from None
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise CheckpointError(f"{path} names no model_type; expected the config.json of a model")
    return raw


class Checkpoint:
    """The tensors of a folder by name. `checkpoint[name]` is lazy: `[...]` on it reads the data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tensors: dict[str, Any] = {}
        for file in weight_files(folder):
            self._tensors.update(_open_safetensors(file) if file.suffix == ".safetensors" else _open_bin(file))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, name: str) -> Any:
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        tensor = self._tensors[name]
        return tuple(tensor.shape if isinstance(tensor, torch.Tensor) else tensor.get_shape())

    def dtype(self, name: str) -> torch.dtype:
        tensor = self._tensors[name]
        return tensor.dtype if isinstance(tensor, torch.Tensor) else _DTYPES.get(tensor.get_dtype(), torch.float32)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: safetensors if there are any, `.bin` otherwise, all that the index names."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise CheckpointError(f"{index} is no index of weights ({error}); download it again") from None
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise CheckpointError(
                    f"{folder} lacks {len(absent)} of {len(names)} shards, first {absent[0]!r}; download them"
                )
            return [folder / name for name in names]
        files = sorted(folder.glob(f"{stem}*{suffix}"))
        if files:
            return files
    raise CheckpointError(f"{folder} holds no weights; expected model*.safetensors or pytorch_model*.bin")


def _open_safetensors(file: Path) -> dict[str, Any]:
    try:
        handle = safe_open(file, framework="pt", device="cpu")
        return {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - no mapping, only keys()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); it is damaged or cut short: download it again"
        ) from None


def _open_bin(file: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} holds more than tensors and was not opened: running it could do harm ({reason})"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{file} cannot be read ({reason}); it is damaged or cut short: download it again"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise CheckpointError(f"{file} is no dictionary of tensors; expected a shard of model weights")
    return loaded


def _is_zip(file: Path) -> bool:
    """Only torch's zip format can be mapped; files from before 1.6 must be read whole."""
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"
