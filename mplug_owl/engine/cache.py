"""The slot cache: keys and values of many conversations side by side, each slot as long as its own conversation.

A slot holds positions from 0 on without gaps, so the place of a key is its position. Steps write in place and read
views; whole slots are moved only when one is taken or left. Which conversation lies where is not known here.

Shapes: S slots, H heads of keys and values, C capacity, K head width, B rows of a call, L positions of a call.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class SlotCache:
    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.pairs = [torch.zeros(2, 0, heads, 0, width, dtype=dtype, device=device) for _ in range(layers)]
        """[2, S, H, C, K] of each layer: keys, then values."""
        self.bytes_per_position = 2 * layers * heads * width * dtype.itemsize
        self.version = 0
        """Counts how often all of it came to lie elsewhere."""

    @property
    def slots(self) -> int:
        return self.pairs[0].shape[1]

    @property
    def capacity(self) -> int:
        return self.pairs[0].shape[3]

    def reshape(self, slots: int, capacity: int) -> None:
        """Make room for so many slots of so many positions; what fits into both shapes is kept."""
        self.version += 1
        kept, length = min(slots, self.slots), min(capacity, self.capacity)
        for layer, old in enumerate(self.pairs):  # one after the other: at no time are there two caches
            # Zeros, not whatever lies there: a masked NaN would still spoil the sum it is masked out of.
            new = old.new_zeros(2, slots, old.shape[2], capacity, old.shape[4])
            new[:, :kept, :, :length] = old[:, :kept, :, :length]
            self.pairs[layer] = new

    def copy(self, source: int, target: int, length: int) -> None:
        for pair in self.pairs:
            pair[:, target, :, :length] = pair[:, source, :, :length]

    def swap(self, one: int, other: int, one_length: int, other_length: int) -> None:
        """Exchange two slots of which so many positions matter."""
        for pair in self.pairs:
            held = pair[:, one, :, :one_length].clone()
            pair[:, one, :, :other_length] = pair[:, other, :, :other_length]
            pair[:, other, :, :one_length] = held

    def clear(self, slot: int) -> None:
        for pair in self.pairs:
            pair[:, slot].zero_()

    def put(
        self,
        layer: int,
        slots: Tensor,
        places: Tensor,
        keys_BHK: Tensor,
        values_BHK: Tensor,
        there: Tensor | None = None,
    ) -> None:
        """Write one position of each of `slots`; where `there` [B] is False, what lies there stays."""
        pair, new = self.pairs[layer], torch.stack((keys_BHK, values_BHK), dim=1)
        if there is not None:
            new = torch.where(there[:, None, None, None], new, pair[:, slots, :, places])
        pair[:, slots, :, places] = new


class Window:
    """Neighbouring slots as the cache of one call of a decoder, from `first` on.

    Row b writes `counts[b]` positions from `starts[b]` on; what fills it up to the longest row is not kept.
    """

    def __init__(self, store: SlotCache, first: int, starts: Sequence[int], counts: Sequence[int]) -> None:
        self.store, self.first, self.starts, self.counts = store, first, starts, counts
        self.fresh = not any(starts)
        self.used = max(start + count for start, count in zip(starts, counts, strict=True))

    def update(self, key_BHLK: Tensor, value_BHLK: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """What the decoder's layers call: keep the new, return all that may be attended to."""
        pair = self.store.pairs[layer_idx]
        for row, (start, count) in enumerate(zip(self.starts, self.counts, strict=True)):
            for held, new_BHLK in zip(pair[:, self.first + row], (key_BHLK, value_BHLK), strict=True):
                held[:, start : start + count] = new_BHLK[row, :, :count]
        if self.fresh:
            return key_BHLK, value_BHLK
        held = pair[:, self.first : self.first + len(self.starts), :, : self.used]
        return held[0], held[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.fresh else self.used

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.used, 0

    def mask(self, positions_BL: Tensor) -> Tensor | None:
        """[B, 1, L, keys]: which keys each query may see; None where plain causality says the same."""
        if self.fresh:
            return None
        places = torch.arange(self.used, device=positions_BL.device)
        return (places <= positions_BL[..., None])[:, None]
