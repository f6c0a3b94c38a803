"""The transcript of an answer: text taken down while `generate` runs, and the word to stop it.

`generate` calls it after each token. It gives out only text that can no longer change, so the pieces add up to the
whole, and ends the answer at a stop string. Who reads the pieces, it does not know.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import StoppingCriteria

from mplug_owl.models.processor import OwlProcessor


class Transcript(StoppingCriteria):
    """One answer of one prompt; `write` gets its text piece by piece."""

    def __init__(self, processor: OwlProcessor, stops: Sequence[str], write: Callable[[str], object]) -> None:
        self.processor = processor
        self.stops = stops
        self.write = write
        self.ids: list[int] = []
        self.written = 0
        self.ended = False

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        self.ids.append(int(input_ids[0, -1]))
        # Sentencepiece spells rare letters in bytes; a wrong byte spoils the run before it.
        if not self.processor.tokenizer.convert_ids_to_tokens(self.ids[-1]).startswith("<0x"):
            text = self._text()
            self._write(text[: len(text) - self._pending(text)])
        return torch.full((len(input_ids),), self.ended, device=input_ids.device)

    def stop(self) -> None:
        """End the answer at the next token."""
        self.ended = True

    def finish(self) -> None:
        """Write what was held back; nothing follows."""
        self._write(self._text())

    def _text(self) -> str:
        text = self.processor.decode(self.ids, skip_special_tokens=True)
        for stop in self.stops:
            head, found, _ = text.partition(stop)
            if found:
                text, self.ended = head, True
        return text

    def _pending(self, text: str) -> int:
        """Letters at the end that may turn into others, or into a stop string."""
        if self.ended:
            return 0
        unfinished = len(text) - len(text.rstrip("\ufffd"))
        starts = (stop[:size] for stop in self.stops for size in range(len(stop), 0, -1))
        return max(unfinished, next((len(start) for start in starts if text.endswith(start)), 0))

    def _write(self, text: str) -> None:
        if len(text) > self.written:
            self.write(text[self.written :])
            self.written = len(text)
