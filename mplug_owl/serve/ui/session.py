"""What one tab of a browser is about: its conversation, and the answer that is being written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mplug_owl.errors import RequestError
from mplug_owl.serve.ui.conversation import Turn
from mplug_owl.serve.ui.reply import Reply


@dataclass
class Session:
    turns: list[Turn] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    """Answers that are being written."""
    is_busy: bool = False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One question at a time. Raises: RequestError where another is being answered."""
        if self.is_busy:
            raise RequestError("an answer is being written; stop it, or wait until it has ended")
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False
            self.replies = []

    def stop(self) -> None:
        for reply in self.replies:
            reply.stop()

    def forget(self) -> None:
        """Begin anew; an answer that is being written belongs to nothing any more."""
        self.stop()
        self.turns = []
