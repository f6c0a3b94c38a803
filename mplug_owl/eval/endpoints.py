"""Who answers: anything with a card and answers. An owl in this process is one.

What is asked and what becomes of the answers is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mplug_owl.messages import Message

if TYPE_CHECKING:
    from mplug_owl.engine.public import Owl


class Endpoint(Protocol):
    def card(self) -> dict[str, Any]:
        """Everything about it that its answers may depend on, as JSON: enough to tell two models apart."""

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
        """Greedy answers in order, each given out as soon as it is there."""


@dataclass(frozen=True)
class OwlEndpoint:
    """An owl opened by `name`."""

    owl: "Owl"
    name: str
    batch_size: int = 32

    def card(self) -> dict[str, Any]:
        from mplug_owl.models.adapters import identity

        found = identity(self.owl.model, self.name)
        model = self.owl.model
        return {
            "name": self.name,
            "config": found.config,
            "weights": found.content,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        }

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[str]:
        return self.owl.answers(conversations, batch_size=self.batch_size, max_new_tokens=max_new_tokens)
