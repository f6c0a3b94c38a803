"""The ways to say things: templates from `wording/*.toml`, some of them kept for testing.

A file holds, by tongue and name, lists of templates with {fields}. The last of every list with three or more is
reserved: training never uses it, and half of the test's questions do.
"""

import tomllib
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from mplug_owl.world.chance import Split


@cache
def wordings(page: str) -> dict[str, Any]:
    """All of one file, such as "shapes"."""
    path = files("mplug_owl") / "world" / "wording" / f"{page}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def say(page: str, name: str, random: Random, split: Split, tongue: str = "en", **fields: Any) -> tuple[str, str]:
    """A wording with its fields filled in, and which one it was: "page/name/number" (with the tongue, unless en)."""
    options = wordings(page)[tongue][name]
    spare = len(options) >= 3
    if spare and split == "test" and random.random() < 0.5:
        number = len(options) - 1
    else:
        number = random.randrange(len(options) - spare)
    label = f"{page}/{name}/{number}" if tongue == "en" else f"{page}/{tongue}/{name}/{number}"
    return options[number].format(**fields), label


def reserved_templates(page: str) -> set[str]:
    """The labels that training never uses."""
    found = set()
    for tongue, names in wordings(page).items():
        for name, options in names.items():
            if isinstance(options, list) and len(options) >= 3:
                prefix = f"{page}/{name}" if tongue == "en" else f"{page}/{tongue}/{name}"
                found.add(f"{prefix}/{len(options) - 1}")
    return found
