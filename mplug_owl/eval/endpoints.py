"""Who answers: anything with a card and answers. An owl in this process is one; `contestants.py` opens all kinds.

What is asked and what becomes of the answers is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mplug_owl.errors import OwlError
from mplug_owl.messages import Message

if TYPE_CHECKING:
    from mplug_owl.engine.answers import Asked
    from mplug_owl.engine.public import Owl


@dataclass(frozen=True)
class Failure:
    """Why one conversation has no answer."""

    reason: str


Said = str | Failure


class Endpoint(Protocol):
    def card(self) -> dict[str, Any]:
        """Everything about it that its answers may depend on, as JSON: enough to tell two models apart."""

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
        """Greedy answers in order, each given out as soon as it is there.

        A conversation that cannot be answered has a Failure in its place, and the others are answered.

        Raises:
            EvalError: nothing more can be answered. What was answered by then has been given out.
        """


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
        example = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "QUESTION"}]}]
        return {
            "name": self.name,
            "config": found.config,
            "weights": found.content,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "prompt": self.owl.processor.render(example, add_generation_prompt=True)[0],
        }

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
        from mplug_owl.engine.answers import answers
        from mplug_owl.engine.chat import template_stops

        desk, stops = self.owl.desk, template_stops(self.owl.processor, None)
        failed: dict[int, Failure] = {}

        def asked(places: Sequence[int]) -> "Asked":
            """The requests of a batch, without those that can be none."""
            found: Asked = []
            for place in places:
                try:
                    request = desk.request(conversations[place], max_new_tokens=max_new_tokens)
                    desk.engine.admission.task(request, lambda event: None)  # whether it can ever fit
                except OwlError as error:
                    failed[place] = Failure(str(error))
                else:
                    found.append((request, stops))
            return found

        place = 0
        for answer in answers(desk, asked, range(len(conversations)), self.batch_size):
            while place in failed:
                yield failed[place]
                place += 1
            yield answer
            place += 1
        yield from (failed[left] for left in range(place, len(conversations)))
