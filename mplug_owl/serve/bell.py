"""From the engine's thread to the event loop: who waits there hears that there is more of an answer.

However many answers grow in one step of the engine, the loop is woken once. What is waited for is not known here.
"""

import asyncio
from collections import deque


class Bell:
    """Sets flags of one event loop from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._rung: deque[asyncio.Event] = deque()
        self._underway = False

    def ring(self, flag: asyncio.Event) -> None:
        """Set the flag soon; from any thread."""
        self._rung.append(flag)
        if not self._underway:
            self._underway = True
            self.loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        # Lowered first: whoever rings from now on wakes the loop again, and nobody is left unheard.
        self._underway = False
        while self._rung:
            self._rung.popleft().set()
