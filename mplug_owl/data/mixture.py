"""The order of a run: sample k is a pure function of (seed, k), whatever the world size.

Nothing is drawn and nothing is stored: shuffles are keyed permutations that are computed, so a run goes on from a
number alone, and 400 million rows cost as little as ten. What a sample is made into is decided in encode.py.
"""

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import ceil

import numpy as np

from mplug_owl.data.conversation import Conversation
from mplug_owl.data.sources import Source
from mplug_owl.errors import ConfigError

_ROUNDS = 8
_WORD = 2**64 - 1


class Permutation:
    """A shuffle of range(size), the one of its key, of which each place is computed alone."""

    def __init__(self, size: int, *key: int | str) -> None:
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
        self.keys = struct.unpack(f"<{_ROUNDS}Q", digest)
        self.size = size
        self.half = max(1, ((size - 1).bit_length() + 1) // 2)

    def __getitem__(self, place: int) -> int:
        # A Feistel network shuffles a power of four; walking on until inside the range makes that a shuffle of the
        # range.
        mask = (1 << self.half) - 1
        while True:
            left, right = place >> self.half, place & mask
            for key in self.keys:
                left, right = right, left ^ (_mix(right ^ key) & mask)
            place = left << self.half | right
            if place < self.size:
                return place


def _mix(word: int) -> int:
    """The finaliser of splitmix64: every bit of the result hangs on every bit of the word."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31


# An epoch's permutation serves many samples; hashing its key anew for each would cost most.
_permutation = lru_cache(maxsize=512)(Permutation)


class Deck:
    """Rows of several piles, shuffled together so that the shares of an epoch are exact.

    Without weights a pile's share is its size, and an epoch is every row once. With weights the epoch is as long as it
    takes to see every row of every pile; the rows of a pile with a larger share than its size come back, none of them
    twice before all others came once.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] | None, seed: int, label: str) -> None:
        self.sizes = sizes
        self.key = (seed, label)
        dealt = [*sizes]
        if weights is not None:
            # A pile without rows has no share.
            exact = [Fraction(w) * bool(n) for w, n in zip(weights, sizes, strict=True)]
            longest = max(n / share for n, share in zip(sizes, exact, strict=True) if n)
            dealt = [round(longest * share) for share in exact]
        self.dealt = dealt
        self.ends = list(accumulate(dealt))
        self.epoch = self.ends[-1]

    def __getitem__(self, k: int) -> tuple[int, int]:
        """The pile and the row of the k-th card, over all epochs."""
        epoch, place = divmod(k, self.epoch)
        place = _permutation(self.epoch, *self.key, "deal", epoch)[place]
        pile = bisect_right(self.ends, place)
        # How many rows of this pile were dealt before, if the epoch were sorted by pile.
        turn = epoch * self.dealt[pile] + place - (self.ends[pile] - self.dealt[pile])
        lap, row = divmod(turn, self.sizes[pile])
        return pile, _permutation(self.sizes[pile], *self.key, pile, lap)[row]


class Mixture:
    """The samples of a run by number, without end.

    `weights` are shares relative to each other, one a source; without them every row comes once an epoch. With
    `multimodal_share`, of each `window` samples that share has images or videos, as exactly as the window allows; an
    epoch then ends when every row of both kinds was seen.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
        multimodal_share: float | None = None,
        window: int = 1,
    ) -> None:
        if not sources:
            raise ConfigError("a mixture of no sources; expected one at least")
        if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
            raise ConfigError(
                f"weights {list(weights)} for {len(sources)} sources; expected a positive number for each"
            )
        self.sources = sources
        self.weights = weights
        self.seed = seed
        self.window = window
        self.share = Fraction(1)
        self._rows: list[list[np.ndarray]] | None = None
        if multimodal_share is None:
            self._decks = [Deck([len(s) for s in sources], weights, seed, "all")]
            self.epoch = self._decks[0].epoch
        else:
            self._split(multimodal_share)

    def _split(self, share: float) -> None:
        """A deck of rows with media and one of rows without."""
        if not 0 < share < 1:
            raise ConfigError(f"multimodal_share={share}; expected a share between 0 and 1")
        self.share = Fraction(share).limit_denominator(10_000)
        shown = [source.shows_media() for source in self.sources]
        self._rows = [
            [np.flatnonzero(flags).astype(np.uint32) for flags in shown],
            [np.flatnonzero(~flags).astype(np.uint32) for flags in shown],
        ]
        self._decks = []
        for rows, label in zip(self._rows, ("media", "text"), strict=True):
            sizes = [len(some) for some in rows]
            if not any(sizes):
                raise ConfigError(
                    f"multimodal_share={share}, but no row of the sources has "
                    f"{'an image or video' if label == 'media' else 'text alone'}"
                )
            weights = self.weights
            if weights is not None:  # a source's weight is split as its rows are
                parts = zip(weights, sizes, self.sources, strict=True)
                weights = [weight * size / len(source) for weight, size, source in parts]
            self._decks.append(Deck(sizes, weights, self.seed, label))
        shares = (self.share, 1 - self.share)
        epochs = [deck.epoch / part for deck, part in zip(self._decks, shares, strict=True)]
        # In whole windows, for within one the last rows may be anywhere.
        self.epoch = ceil(max(epochs) / self.window) * self.window

    def locate(self, k: int) -> tuple[int, int]:
        """The number of the source of sample k, and its row there."""
        if self._rows is None:
            return self._decks[0][k]
        # Within a window the two kinds are shuffled, so that no rank gets only one of them.
        window, place = divmod(k, self.window)
        k = window * self.window + _permutation(self.window, self.seed, "window", window)[place]
        before = k * self.share.numerator // self.share.denominator
        after = (k + 1) * self.share.numerator // self.share.denominator
        kind, turn = (0, before) if after > before else (1, k - before)
        source, index = self._decks[kind][turn]
        return source, int(self._rows[kind][source][index])

    def __getitem__(self, k: int) -> Conversation:
        """Raises: DataError where the row cannot be used."""
        source, row = self.locate(k)
        return self.sources[source][row]

    @property
    def identity(self) -> str:
        """A hash of all that decides the order: whether sample k is still what it was."""
        parts = [source.identity for source in self.sources]
        settings = (parts, self.weights, self.seed, self.share, self.window, self.epoch)
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
