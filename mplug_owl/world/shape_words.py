"""What shapes, their colours, sizes and places are called, in both tongues, and which compositions are for tests only.

It knows words and endings, and nothing of what stands in a picture.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from mplug_owl.world.chance import reserved
from mplug_owl.world.shape_art import COLOURS, SHAPES
from mplug_owl.world.wording import wordings

SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
ALSO = {
    "top": ("top middle", "top center"),
    "left": ("middle left", "center left"),
    "middle": ("center", "centre"),
    "right": ("middle right", "center right"),
    "bottom": ("bottom middle", "bottom center"),
}
"""Other names of some places, as right in an answer."""
KEPT = frozenset((colour, shape) for colour in COLOURS for shape in SHAPES if reserved("pair", colour, shape))
"""The compositions that training neither sees nor hears of."""
VALUES: dict[str, tuple[str, ...]] = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES}


class Name(NamedTuple):
    """Some of the marks of a thing: what fits it may fit others too."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    @property
    def kept(self) -> bool:
        return (self.colour, self.shape) in KEPT


THING = Name()


@dataclass(frozen=True)
class Phrase:
    """A name in words, in the forms that templates need: "{x.a}", "{x.many}" and so on."""

    one: str
    many: str
    a: str
    """With the article; Esperanto has none."""
    acc: str
    many_acc: str
    """The object of a verb, which only Esperanto marks."""


@cache
def phrase(name: Name, tongue: str) -> Phrase:
    words = [word(value, tongue) for value in (name.size, name.colour, name.shape or "thing") if value]
    if tongue == "eo":
        forms = [" ".join(w + ending for w in words) for ending in ("", "j", "n", "jn")]
        return Phrase(one=forms[0], many=forms[1], a=forms[0], acc=forms[2], many_acc=forms[3])
    one = " ".join(words)
    many = one + ("es" if one.endswith("s") else "s")
    return Phrase(one=one, many=many, a=("an " if one[0] in "aeiou" else "a ") + one, acc=one, many_acc=many)


def word(value: str, tongue: str) -> str:
    """A colour, a size, a place, a relation, yes or no, as the tongue says it."""
    if tongue == "en":
        return value
    translated: str = wordings("shapes")[tongue]["words"][value]
    return translated


def at(place: str, tongue: str) -> str:
    """A place as part of a sentence."""
    if tongue == "en":
        return f"in the {place}" if place == "middle" else f"at the {place}"
    return word(place, tongue)
