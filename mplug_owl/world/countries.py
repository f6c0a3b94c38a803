"""Countries: a few facts of each, and the flag as data. Nothing here draws or asks."""

from dataclasses import dataclass
from typing import Any

from mplug_owl.world.wording import wordings

FACTS = ("capital", "continent", "language")
SHADES = {"white": "ffffff", "black": "000000"}  # of the words that need none of their own
BASES = {"columns", "rows", "field", "quarters", "sides"}  # layers that cover the whole flag


@dataclass(frozen=True)
class Layer:
    kind: str
    words: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    weights: tuple[int, ...]
    """Of its stripes"""
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Flag:
    ratio: float
    """Length over height"""
    layers: tuple[Layer, ...]

    @property
    def base(self) -> Layer:
        return self.layers[0]

    @property
    def marks(self) -> tuple[Layer, ...]:
        """What lies on the stripes or the field."""
        return self.layers[1:]

    @property
    def colours(self) -> tuple[str, ...]:
        """The words of all its colours, each once."""
        return tuple(dict.fromkeys(word for layer in self.layers for word in layer.words))


@dataclass(frozen=True)
class Country:
    name: str
    capital: str
    continent: str
    language: str
    """An official one: the most used in public life"""
    flag: Flag

    @property
    def title(self) -> str:
        """The name as a sentence has it."""
        return self.name.title()


def _layer(text: str) -> Layer:
    kind, *rest = text.split()
    paints = [part for part in rest if part[0].isalpha()]
    stripes = [part.partition("*") for part in paints]
    names = [paint.partition("#") for paint, _, _ in stripes]
    codes = [shade or SHADES[word] for word, _, shade in names]
    return Layer(
        kind,
        tuple(word for word, _, _ in names),
        tuple((int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in codes),
        tuple(int(weight or 1) for _, _, weight in stripes),
        tuple(float(part) for part in rest if not part[0].isalpha()),
    )


def _country(name: str, row: dict[str, Any]) -> Country:
    flag = Flag(row["ratio"], tuple(_layer(text) for text in row["flag"]))
    assert flag.base.kind in BASES and not any(layer.kind in BASES for layer in flag.marks), name
    return Country(name, row["capital"], row["continent"], row["language"], flag)


COUNTRIES = [_country(name, row) for name, row in wordings("countries").items()]
BY_NAME = {country.name: country for country in COUNTRIES}
