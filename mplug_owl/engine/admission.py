"""What may enter the engine: a request that fits the model, the context and the memory becomes a task.

Whatever can never be answered is refused here, at once and with the numbers, in the thread of whoever asks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mplug_owl.engine.request import Listener, Request
from mplug_owl.engine.sampling import Draw
from mplug_owl.engine.scheduler import Task
from mplug_owl.errors import RequestError
from mplug_owl.models.owl import OwlForConditionalGeneration


@dataclass(frozen=True)
class Admission:
    model: OwlForConditionalGeneration
    alpha: Callable[[int], float | None]
    """The rotary stretch of a prompt of so many positions."""
    context: int | None
    """Positions a conversation may have."""
    positions: int
    """Positions there is memory for."""
    bytes_per_position: int

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    def task(self, request: Request, listener: Listener) -> Task:
        """Raises: RequestError where the request contradicts itself or can never fit."""
        self.check_media(request)
        length = len(request.ids)
        most = self.room(length, request.max_new_tokens)
        ends = self.model.generation_config.eos_token_id
        end_ids = frozenset([ends] if isinstance(ends, int) else ends or [])
        return Task(
            request,
            listener,
            Draw(request.sampling, request.ids, self.vocabulary),
            self.alpha(length),
            need=length + most,
            most=most,
            stop_ids=end_ids if request.stop_ids is None else request.stop_ids,
        )

    def room(self, length: int, wanted: int) -> int:
        """How many tokens may follow a prompt of so many positions."""
        if self.context is not None and length >= self.context:
            raise RequestError(
                f"a prompt of {length} positions; the context holds {self.context}, answer included: shorten it"
            )
        most = wanted if self.context is None else min(wanted, self.context - length)
        if length + most > self.positions:
            needed, there = ((n * self.bytes_per_position) / 2**20 for n in (length + most, self.positions))
            raise RequestError(
                f"a prompt of {length} positions and up to {most} new ones need {needed:.1f} MiB; there are "
                f"{there:.1f} MiB for conversations, {self.positions} positions: ask for less"
            )
        return most

    def check_media(self, request: Request) -> None:
        ids, owl = torch.tensor(request.ids), self.model.model
        if not bool(((ids >= 0) & ((ids < self.vocabulary) | owl.is_media(ids))).all()):
            raise RequestError(f"an id outside of the vocabulary of {self.vocabulary}; expected the model's own ids")
        placed = owl.is_media(ids).nonzero()[:, 0]
        covered = [torch.arange(medium.start, medium.end) for medium in request.media]
        if not torch.equal(torch.cat(covered) if covered else placed[:0], placed):
            raise RequestError(
                f"{len(placed)} media position(s) in the prompt, but its {len(covered)} image(s) and video(s) cover "
                f"{sum(map(len, covered))} or others; every medium needs positions of its own, in reading order"
            )
        for medium in request.media:
            if medium.pixels is None and medium.rows is None:
                raise RequestError(f"the {medium.kind} at position {medium.start} has neither pixels nor rows")
