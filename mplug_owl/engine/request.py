"""What is asked of the engine and what comes back: ids, media and wishes in, events out.

A request is made of token ids and of what fills its media positions; text, files and connections are not known here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mplug_owl.engine.sampling import Sampling
from mplug_owl.errors import RequestError

MAX_LOGPROBS = 20


class Busy(RequestError):
    """The queue is full: the same request may pass later."""


@dataclass(frozen=True, eq=False)
class Medium:
    """A picture or a video of a prompt: which positions are its own, and what fills them."""

    kind: str
    """"image" or "video"."""
    start: int
    length: int
    key: bytes
    """The same for the same content; two prompts share what has the same key."""
    pixels: Tensor | None = None
    """[3, X, Y], or [frames, 3, X, Y]; not needed where `rows` are given."""
    rows: Tensor | None = None
    """[length, width]: what the abstractor made of it earlier."""

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, eq=False)
class Request:
    ids: Sequence[int]
    media: Sequence[Medium] = ()
    """In reading order; every media position of `ids` belongs to one."""
    max_new_tokens: int = 512
    """At most so many; fewer where the context ends before."""
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] | None = None
    """Ids that end the answer and are not part of it; those of the model unless given."""
    logprobs: int | None = None
    """How many likely ids come with each token beside the chosen one; None: no probabilities at all."""

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise RequestError("a prompt of no positions; expected at least one id")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={self.max_new_tokens}; expected 1 or more")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise RequestError(f"logprobs={self.logprobs}; expected 0 to {MAX_LOGPROBS}")


@dataclass(frozen=True)
class Token:
    id: int
    logprob: float | None = None
    """Natural logarithm of its probability under the model itself, before temperature and cuts."""
    likely: tuple[tuple[int, float], ...] = ()
    """The likeliest ids with theirs."""


@dataclass(frozen=True)
class Finish:
    reason: str
    """"stop": an end id or the listener; "length"; "abort"."""
    prompt: int
    """Positions of the prompt."""
    reused: int
    """Of these, how many were in the cache already."""
    generated: int
    """Tokens of the answer, with the id that ended it."""


@dataclass(frozen=True)
class Failure:
    error: Exception


Event = Token | Finish | Failure
Listener = Callable[[Event], object]
"""Called in the engine's thread, so it must be quick; what it returns for a Token ends the answer if it is True."""
