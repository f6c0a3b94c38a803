"""Words of an answer and the tokens they are made of; what they mean and where they come from is not known here."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from mplug_owl.models.processor import OwlProcessor

# Writing without spaces: kana and Han count letter by letter.
_SINGLE = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff"
_WORD = re.compile(f"[{_SINGLE}]|[^\\s{_SINGLE}]+")


class Word(NamedTuple):
    """A word of an answer: where its letters and its tokens are, and how likely it was."""

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]
    """Places in the answer."""
    probability: float = 1.0


def words_of(processor: OwlProcessor, ids: Sequence[int], answer: str) -> list[Word]:
    """The words of `answer`, which the tokens `ids` spell; they may spell more, which was cut.

    A token that ends a word and begins the next belongs to both.
    """
    ends = [0]
    for count in range(1, len(ids) + 1):
        # A letter of several tokens shows as marks until its last one is there.
        ends.append(max(ends[-1], len(processor.decode(ids[:count], skip_special_tokens=True).rstrip("\ufffd"))))
    whole = processor.decode(list(ids), skip_special_tokens=True)
    shift = max(whole.find(answer), 0)  # spaces around an answer may have been taken away
    found = []
    for match in _WORD.finditer(answer):
        start, end = match.start() + shift, match.end() + shift
        tokens = [i for i in range(len(ids)) if ends[i] < end and max(ends[i + 1], ends[i] + 1) > start]
        if tokens:
            found.append(Word(match.group(), match.start(), match.end(), tuple(tokens)))
    return found
