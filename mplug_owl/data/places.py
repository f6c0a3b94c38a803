"""What is where in a picture, as targets for f_V: boxes, and the ids of the words that are true inside them.

Which patch lies in which box is decided where the grid of patches is known, not here.

Shapes: F pictures, R places of a picture, K words of a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mplug_owl.data.conversation import Conversation
from mplug_owl.data.encode import IGNORED, Prompter
from mplug_owl.errors import DataError
from mplug_owl.messages import ImagePart, VideoPart, media

_EVERYWHERE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Placed:
    """One picture; a later box lies on the earlier ones."""

    boxes: list[tuple[float, float, float, float]]
    words: list[list[int]]
    media: list[ImagePart | VideoPart]


def place_words(conversation: Conversation, processor: Prompter) -> Placed:
    """The places of a picture; all around them is the end of an answer: there is nothing to say.

    Raises: DataError where the source does not say what is where.
    """
    shown = media(conversation.messages)
    if not conversation.places or len(shown) != 1:
        raise DataError(
            f"{len(conversation.places)} places of {len(shown)} pictures; expected places of one picture, as "
            "world:places has them"
        )
    boxes, words = [_EVERYWHERE], [_ids(processor.answer_end, processor)]
    for place in conversation.places:
        boxes.append(place.box)
        words.append([token for word in place.words for token in _ids(word, processor)])
    return Placed(boxes, words, shown)


def _ids(word: str, processor: Prompter) -> list[int]:
    """Its ids, without one that stands for a space alone."""
    ids: list[int] = processor.tokenizer(word, add_special_tokens=False)["input_ids"]
    return [token for token in ids if processor.tokenizer.decode([token]).strip()] or ids


@dataclass(frozen=True)
class PlaceBatch:
    """Pictures for one forward pass of f_V on one rank."""

    pixel_values: Tensor
    boxes: Tensor
    """[F, R, 4]: left, top, right, bottom; a picture with fewer places has empty ones."""
    labels: Tensor
    """[F, R, K]: ids of words, and `IGNORED`."""
    ids: list[str]

    @classmethod
    def of(cls, rows: Sequence[Any], pixels: Sequence[Tensor], ids: list[str]) -> "PlaceBatch":
        places = max((len(row.boxes) for row in rows), default=1)
        most = max((len(words) for row in rows for words in row.words), default=1)
        boxes = torch.full((len(rows), places, 4), -1.0)
        labels = torch.full((len(rows), places, most), IGNORED)
        for row, (where, said) in zip(rows, zip(boxes, labels, strict=True), strict=True):
            where[: len(row.boxes)] = torch.tensor(row.boxes)
            for place, words in zip(said, row.words, strict=False):
                place[: len(words)] = torch.tensor(words)
        return cls(torch.stack(tuple(pixels)) if pixels else torch.empty(0), boxes, labels, ids)

    @property
    def inputs(self) -> dict[str, Any]:
        return {"pixel_values": self.pixel_values, "boxes": self.boxes}

    @property
    def targets(self) -> int:
        """Each picture counts the same, however many patches and words it has."""
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return int((self.labels != IGNORED).sum())

    @property
    def images(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "PlaceBatch":
        pixels = self.pixel_values.to(device, dtype, non_blocking=True)
        return replace(self, pixel_values=pixels, boxes=self.boxes.to(device), labels=self.labels.to(device))
