"""Many conversations answered in batches: what an evaluation asks of an owl.

A batch enters the engine as a whole and the next one enters when it is answered, so nothing depends on how fast
anything is; meanwhile the next one's media are opened. What the answers are for is not known here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mplug_owl.engine.chat import Answer, Chat
from mplug_owl.engine.request import Request

Conversation = TypeVar("Conversation")
Asked = list[tuple[Request, list[str]]]
"""Requests, and the texts that end their answers."""


def answers(
    desk: Chat, asked: Callable[[Sequence[Conversation]], Asked], conversations: Sequence[Conversation], batch_size: int
) -> Iterator[str]:
    """The answers in the order of the conversations; `asked` makes a batch of them ready for the engine."""
    batches = [conversations[start : start + batch_size] for start in range(0, len(conversations), batch_size)]
    underway: list[Answer] = []
    try:
        coming = asked(batches[0]) if batches else []
        for number in range(len(batches)):
            underway = desk.ask_all(coming)
            coming = asked(batches[number + 1]) if number + 1 < len(batches) else []
            for answer in underway:
                yield answer.text()
    finally:
        for answer in underway:
            answer.close()
