"""The pieces of an answer as server-sent events, each a chunk in the form of OpenAI's.

What is the same in all of them is written once, for a busy server writes thousands a second.
"""

from json.encoder import encode_basestring

from mplug_owl.serve.forms import Logprobs, Usage
from mplug_owl.serve.replies import written

DONE = b"data: [DONE]\n\n"


class Chunks:
    """The events of one stream."""

    def __init__(self, id: str, created: int, model: str, fingerprint: str, include_usage: bool) -> None:
        shared = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + written(shared | {"system_fingerprint": fingerprint})[:-1] + b',"choices":['
        self._end = b"]}\n\n"
        self._tail = b'],"usage":null}\n\n' if include_usage else self._end
        self._begun: set[int] = set()

    def text(self, choice: int, text: str, logprobs: Logprobs | None) -> bytes:
        """More of an answer."""
        said = b'{"content":' + encode_basestring(text).encode() + b"}"
        likely = b"null" if logprobs is None else written(logprobs)
        return self._opening(choice) + self._chunk(choice, said, likely, b"null")

    def finish(self, choice: int, reason: str) -> bytes:
        return self._opening(choice) + self._chunk(choice, b"{}", b"null", written(reason))

    def usage(self, usage: Usage) -> bytes:
        return self._head + b'],"usage":' + written(usage) + b"}\n\n"

    def _opening(self, choice: int) -> bytes:
        """Who speaks, before the first word."""
        if choice in self._begun:
            return b""
        self._begun.add(choice)
        return self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}', b"null", b"null")

    def _chunk(self, choice: int, delta: bytes, logprobs: bytes, reason: bytes) -> bytes:
        said = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}' % (choice, delta, logprobs, reason)
        return self._head + said + self._tail


def event(content: object) -> bytes:
    """Anything else a stream may have to say: an error."""
    return b"data: " + written(content) + b"\n\n"
