"""How single tokens are spelt: the text and the bytes that log probabilities are given with.

A token may be part of a letter only, so bytes are the truth and text is what can be shown of them.
"""

import json
import re
from functools import cached_property

from transformers import PreTrainedTokenizerFast

from mplug_owl.models.tokenizers import SPACE, byte_letters

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """The tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._silent = {id for id, word in tokenizer.added_tokens_decoder.items() if word.special}
        self._known: dict[int, tuple[str, list[int]]] = {}

    def spell(self, token: int) -> tuple[str, list[int]]:
        """The text of a token, and the bytes that it adds to an answer: none, where it is a mark."""
        if token not in self._known:
            self._known[token] = self._spelt(token, self.tokenizer.convert_ids_to_tokens(token))
        return self._known[token]

    def _spelt(self, token: int, word: str | None) -> tuple[str, list[int]]:
        if word is None or token in self._silent:  # a model may have more ids than its tokenizer
            return word or "", []
        spelt = self._bytes(word)
        try:
            text = spelt.decode()
        except UnicodeDecodeError:
            text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)
        return text, list(spelt)

    def _bytes(self, word: str) -> bytes:
        if self._letters:
            return bytes(self._letters[letter] for letter in word if letter in self._letters)
        if found := _BYTE.fullmatch(word):
            return bytes([int(found[1], 16)])
        return word.replace(SPACE, " ").encode()

    @cached_property
    def _letters(self) -> dict[str, int]:
        """The byte that each letter of a byte-level vocabulary stands for; empty for other vocabularies."""
        decoder = json.loads(self.tokenizer.backend_tokenizer.decoder.__getstate__())
        if "ByteLevel" not in {decoder["type"], *(part["type"] for part in decoder.get("decoders", ()))}:
            return {}
        return {letter: byte for byte, letter in enumerate(byte_letters())}
