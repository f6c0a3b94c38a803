"""What the rows of a decode step write into the slot cache and read of it, in one of two manners.

`Ragged` knows lengths as numbers: rows of like length attend in one call, to hardly more keys than they have, which is
what a CPU wants. `Fixed` knows them as a tensor alone: all rows attend to as many keys whatever it holds, so the same
computation can be recorded once and replayed, which is what a GPU wants. What lies in front of attention and behind it
is not known here.

Shapes: B rows, H heads of keys, G queries a head, K head width, L keys.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug_owl.engine.cache import SlotCache

Bias = Callable[[int, torch.dtype], Tensor | None]
"""[H, 1, L] to be added to the scores of keys 0 .. L - 1, where a decoder has such a thing."""
_WIDENED_BYTES = 2**22  # what is widened must still be in the processor's cache when it is used


class Rows(Protocol):
    """The rows of a step, as far as its layers need them."""

    places_B: Tensor

    def put(self, layer: int, key_BHK: Tensor, value_BHK: Tensor) -> None:
        """Keep the position that is new in each row."""

    def attend(self, layer: int, query_BHGK: Tensor) -> Tensor:
        """[B, H, G, K] of what each query finds among the positions up to its own."""
        ...


class Reader:
    """Keys and values as they lie; those of 16 bits on a CPU in float32, where attention of single queries is several
    times as fast.
    """

    def __init__(self, store: SlotCache) -> None:
        self.store = store
        held = store.pairs[0]
        _, _, heads, _, width = held.shape
        self.widen = held.dtype.itemsize == 2 and held.device.type == "cpu"
        self.dtype = torch.float32 if self.widen else held.dtype
        """Of attention."""
        self.most = _WIDENED_BYTES // (2 * heads * width * 4) if self.widen else 2**62
        """Positions at once."""
        self.scratch = torch.empty(0)

    def read(self, layer: int, first: int, last: int, length: int) -> Tensor:
        """[2, B, H, L, K] of slots `first` .. `last - 1`."""
        held = self.store.pairs[layer][:, first:last, :, :length]
        if not self.widen:
            return held
        # In memory that is used again and again.
        if self.scratch.numel() < held.numel():
            self.scratch = torch.empty(held.numel())
        return self.scratch[: held.numel()].view(held.shape).copy_(held)


class Group(NamedTuple):
    a: int
    b: int
    keys: int
    mask: Tensor | None


class Ragged:
    """Row b has `lengths[b]` positions in slot `first + b` and brings one more."""

    def __init__(
        self, reader: Reader, first: int, lengths: Sequence[int], device: torch.device, bias: Bias, scale: float
    ) -> None:
        self.reader, self.first, self.bias, self.scale = reader, first, bias, scale
        self.places_B = torch.tensor(lengths, device=device)
        self.slots_B = torch.arange(first, first + len(lengths), device=device)
        self.groups = [self.group(a, b, lengths) for a, b in spans(lengths, reader.most)]

    def group(self, a: int, b: int, lengths: Sequence[int]) -> Group:
        """Rows a .. b - 1 attend together, each to the keys up to its own."""
        keys = max(lengths[a:b]) + 1
        bias = self.bias(keys, self.reader.dtype)
        mask = None
        if min(lengths[a:b]) + 1 < keys:
            mask = mask_for(self.places_B[a:b], keys, bias)
        elif bias is not None:
            mask = bias[None]
        return Group(a, b, keys, mask)

    def put(self, layer: int, key_BHK: Tensor, value_BHK: Tensor) -> None:
        self.reader.store.put(layer, self.slots_B, self.places_B, key_BHK, value_BHK)

    def attend(self, layer: int, query_BHGK: Tensor) -> Tensor:
        query_BHGK = query_BHGK.to(self.reader.dtype)
        found = []
        for a, b, length, mask in self.groups:
            keys, values = self.reader.read(layer, self.first + a, self.first + b, length)
            found.append(
                F.scaled_dot_product_attention(query_BHGK[a:b], keys, values, attn_mask=mask, scale=self.scale)
            )
        return found[0] if len(found) == 1 else torch.cat(found)


class Fixed:
    """Row b has `lengths_B[b]` positions in slot b, of which and of the new one the first `keys` are read.

    A row of a negative length is not there: it writes nothing, and what it finds means nothing. Only shapes decide what
    is computed, so nothing here may look into a tensor or bring one from elsewhere.
    """

    def __init__(self, store: SlotCache, lengths_B: Tensor, keys: int, bias: Tensor | None, scale: float) -> None:
        self.store, self.keys, self.scale = store, keys, scale
        self.there_B = lengths_B >= 0
        self.places_B = lengths_B.clamp(min=0)
        self.slots_B = torch.arange(len(lengths_B), device=lengths_B.device)
        self.mask = mask_for(self.places_B, keys, bias)

    def put(self, layer: int, key_BHK: Tensor, value_BHK: Tensor) -> None:
        self.store.put(layer, self.slots_B, self.places_B, key_BHK, value_BHK, self.there_B)

    def attend(self, layer: int, query_BHGK: Tensor) -> Tensor:
        keys, values = self.store.pairs[layer][:, : len(query_BHGK), :, : self.keys]
        return F.scaled_dot_product_attention(query_BHGK, keys, values, attn_mask=self.mask, scale=self.scale)


def mask_for(places_B: Tensor, keys: int, bias: Tensor | None) -> Tensor:
    """[B, 1 or H, 1, L]: whether each key may be seen, or what its score gets."""
    mask = (torch.arange(keys, device=places_B.device) <= places_B[:, None])[:, None, None]
    return mask if bias is None else torch.where(mask, bias, float("-inf"))


def spans(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Neighbouring rows whose lengths are alike enough to attend in one call: most of what is read must matter, and
    all of it come to `most` positions unless one row alone has more.
    """
    sums = [0, *accumulate(length + 32 for length in lengths)]  # a call of its own costs as much as a few keys
    found, start, longest = [], 0, 0
    for row, length in enumerate(lengths):
        wider = max(longest, length + 32)
        read = (row + 1 - start) * wider
        if row > start and (read > 1.5 * (sums[row + 1] - sums[start]) or read > most):
            found.append((start, row))
            start, wider = row, length + 32
        longest = wider
    return [*found, (start, len(lengths))]
