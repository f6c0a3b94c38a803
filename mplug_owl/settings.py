"""TOML files and dotted overrides become frozen dataclasses; an unknown key is an error.

`read` builds a settings class from a file and overrides such as `optim.steps=9`; `dump` writes the resolved settings
back. What a field means stands under it in its class; cross-field rules live in that class's `__post_init__`. Nothing
here knows any particular settings class.
"""

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mplug_owl.errors import ConfigError, did_you_mean

T = TypeVar("T")


def read(kind: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Settings of class `kind` from a TOML file, changed by overrides `dotted.name=value`."""
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no file {str(path)!r}; expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    for override in overrides:
        apply_override(tree, override)
    return build(kind, tree, str(path))


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is read as TOML, and as a plain string where it is none."""
    name, sign, text = override.partition("=")
    if not sign or not name:
        raise ConfigError(f"override {override!r}; expected name=value, such as optim.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {parent!r} holds a value, not a section")
    tree[last] = value


def build(kind: type[T], tree: Mapping[str, Any], where: str = "settings") -> T:
    """An instance of the dataclass `kind` from nested mappings, every value checked."""
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, fields)}")
    values = {k: _value(hints[k], v, f"{where}: {k}") for k, v in tree.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; expected a value")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or (value == "none" and type(None) in arguments):
            return None
        kinds = [a for a in arguments if a is not type(None)]
        return _value(kinds[0], value, where) if len(kinds) == 1 else _first(kinds, value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a section")
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}; expected a list")
        item = arguments[0]
        if len(arguments) == 2 and arguments[1] is not Ellipsis and len(value) != len(arguments):
            raise ConfigError(f"{where} has {len(value)} values; expected {len(arguments)}")
        return tuple(_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a section")
        item = arguments[1] if arguments else Any
        return {k: _value(item, v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(hint, value, where)


def _first(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The first kind of a union that takes the value."""
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except ConfigError as error:
            last = error
    raise last


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if get_origin(hint) is not None:  # Literal
        if value not in get_args(hint):
            raise ConfigError(f"{where} is {value!r}{did_you_mean(str(value), map(str, get_args(hint)))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}; expected {hint.__name__}")
    return value


def dump(settings: Any) -> str:
    """Settings as JSON, every default filled in: what a run writes down before it starts."""
    return json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
