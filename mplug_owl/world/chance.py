"""Chance that repeats: a random stream of any key, and the split that any piece of truth belongs to.

Both hash the key's text, so they are the same in every process and on every machine.
"""

import hashlib
from random import Random
from typing import Any, Literal, get_args

from mplug_owl.errors import ConfigError, did_you_mean

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_DEV, _TEST = 80, 90  # of 100 parts: training below the first, testing from the second on


def stream(*key: Any) -> Random:
    """A stream of random numbers that is a function of `key` alone."""
    return Random(_number(key))


def split_of(*key: Any) -> Split:
    """The split a piece of truth belongs to, for good: train 80%, dev 10%, test 10%."""
    part = _number(("split", *key)) % 100
    return "train" if part < _DEV else "dev" if part < _TEST else "test"


def reserved(*key: Any, percent: int = 10) -> bool:
    """Whether something (a word, a colour on a shape, a layout) is kept from training; only test scenes use it."""
    return _number(("reserved", *key)) % 100 < percent


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")


def _number(key: tuple[Any, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")
