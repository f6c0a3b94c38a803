"""The transcript of an answer: text taken down token by token, and the stop strings that end it.

It gives out only text that can no longer change, so the pieces add up to the whole; each token costs the same however
long the answer is. Where tokens come from and who reads the pieces, it does not know.
"""

from collections.abc import Sequence

from mplug_owl.models.processor import OwlProcessor

WINDOW = 16  # tokens that are decoded again with each new one, before some are left behind
CONTEXT = 6  # tokens that stay, so that what follows is decoded as after the whole answer
UNSURE = 3  # a letter of several bytes shows as so many marks at most until its last byte is there


class Transcript:
    """One answer; `ended` says that a stop string was met."""

    def __init__(self, processor: OwlProcessor, stops: Sequence[str] = ()) -> None:
        self.processor = processor
        self.stops = [stop for stop in stops if stop]
        self.ended = False
        self._silent = frozenset(processor.tokenizer.all_special_ids)
        self._in_bytes = False
        self._ids: list[int] = []
        """The last tokens only."""
        self._given = 0
        """Letters of their text that were taken already."""
        self._held = ""
        """Text that may be the beginning of a stop string."""

    def add(self, token: int) -> str:
        """The text that is certain now, often empty."""
        self._ids.append(token)
        # Sentencepiece spells rare letters in bytes; a wrong byte spoils the run before it, which only text ends.
        if token not in self._silent:
            self._in_bytes = self.processor.tokenizer.convert_ids_to_tokens(token).startswith("<0x")
        if self._in_bytes:
            return ""
        text = self._text()
        marks = len(text) - len(text.rstrip("\ufffd"))
        certain = len(text) - min(marks, UNSURE)
        piece = text[self._given : certain]
        self._given = max(self._given, certain)
        if certain == len(text) and len(self._ids) > WINDOW:
            self._leave_behind()
        return self._until_stop(piece)

    def finish(self) -> str:
        """What was held back; nothing follows."""
        rest = self._until_stop(self._text()[self._given :])
        self._ids, self._given = [], 0
        held, self._held = self._held, ""
        return rest if self.ended else rest + held

    def _text(self) -> str:
        return self.processor.decode(self._ids, skip_special_tokens=True)

    def _leave_behind(self) -> None:
        """Shorten the window, unless nothing of it shows: a first space counts only in front of everything."""
        kept = self._ids[-CONTEXT:]
        shown = self.processor.decode(kept, skip_special_tokens=True)
        if shown.strip():
            self._ids, self._given = kept, len(shown)

    def _until_stop(self, piece: str) -> str:
        if self.ended or not self.stops:
            return "" if self.ended else piece
        text = self._held + piece
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        sizes = ((stop, size) for stop in self.stops for size in range(min(len(stop) - 1, len(text)), 0, -1))
        starts = (size for stop, size in sizes if text.endswith(stop[:size]))
        kept = len(text) - max(starts, default=0)
        self._held = text[kept:]
        return text[:kept]
