"""The words of the world: those it asks and answers with, but not those that are there to be read letter by letter.

What a tokenizer makes of them is not known here.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from mplug_owl.world.scene import KINDS
from mplug_owl.world.sets import corpus, rows
from mplug_owl.world.wording import wordings

_DRAWN = ("sign", "flowchart")  # kinds that show any words
_LISTED = "words"  # the page of what they show
_FIELD = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"[^\W\d_]+")
ROWS = 60_000  # of training, enough to tell what is frequent
_SCENES = 400  # of each other kind: so many name everything that is there to name


def vocabulary() -> frozenset[str]:
    """In lower case: the words of all wordings, and of what is said about scenes without any words in them."""
    pages = sorted(path.name.removesuffix(".toml") for path in (files("mplug_owl") / "world" / "wording").iterdir())
    texts = [_FIELD.sub(" ", text) for page in pages if page != _LISTED for text in _strings(wordings(page))]
    for kind in KINDS:
        if kind not in _DRAWN:
            told = rows(f"described/{kind}")
            texts += [message.text for number in range(_SCENES) for message in told.row(number).messages]
    return frozenset(word.casefold() for text in texts for word in _WORD.findall(text))


def lines(count: int) -> Iterator[str]:
    """What is said in so many rows of training, line by line."""
    for text in corpus(count):
        yield from text.splitlines()


def _strings(page: Any) -> Iterator[str]:
    if isinstance(page, str):
        yield page
    elif isinstance(page, dict | list):
        for item in page.values() if isinstance(page, dict) else page:
            yield from _strings(item)
