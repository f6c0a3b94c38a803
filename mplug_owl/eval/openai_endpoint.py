"""A model behind a server that speaks OpenAI's chat completions: `owl serve`, vLLM, a commercial one.

Several conversations are under way at once and the answers come in order. What may pass by itself - a busy server, a
dropped connection, a time-out - is tried again after a while; what is wrong with one conversation fails that one; and
when the server is gone, everything it answered has been given out before the error. What is asked is not known here.
"""

import base64
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from mplug_owl.errors import EvalError, OwlError
from mplug_owl.eval.endpoints import Failure, Said
from mplug_owl.media import load_image, load_video
from mplug_owl.media.limits import USUAL
from mplug_owl.media.source import read
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart

PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
REFUSING = (401, 403, 404)
"""Statuses that every other conversation would meet too."""
_ABSENT = (ConnectionRefusedError, socket.gaierror)
FRAMES = 8  # of a video that does not say how many
LONGEST_WAIT = 300.0  # seconds; a server may ask for more, but nobody would wait for it
AHEAD = 4  # answers of one worker that may wait behind a slow one
DOWN = 3  # conversations that failed of the server, one after the other: it is down
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


class _Passing(Exception):
    """What may pass by itself; the server may say when."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Trouble(Failure):
    """A failure of the server rather than of the conversation."""


class _Gone(_Trouble):
    """The server is not there, or does not want to be asked."""


@dataclass
class Usage:
    """What was asked of a server so far, as far as it tells."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class OpenAIEndpoint:
    """The model `model` of the server at `url` (".../v1")."""

    url: str
    model: str = ""
    key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout: float = 120.0
    """Seconds for one answer."""
    retries: int = 5
    backoff: float = 0.5
    """Seconds before the first retry; twice as many before each further one, unless the server says how many."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request; None takes a usual one away."""
    usage: Usage = field(default_factory=Usage)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EvalError(f"server {self.url!r}; expected an address such as http://localhost:8000/v1")
        if self.concurrency < 1 or self.timeout <= 0 or self.retries < 0:
            raise EvalError(
                f"concurrency {self.concurrency}, timeout {self.timeout}, retries {self.retries}; expected at least "
                "one conversation at a time, some seconds, and no retry or more"
            )

    def card(self) -> dict[str, Any]:
        return {
            "name": self.model or self.url,
            "server": self.url,
            "weights": "known to the server alone",
            "prompt": "made by the server",
            "videos": f"as their frames, {FRAMES} unless the task says how many",
            "request": dict(self.request),
        }

    def answers(self, conversations: Sequence[Sequence[Message]], max_new_tokens: int) -> Iterator[Said]:
        found: list[SimpleQueue[Said | Exception]] = [SimpleQueue() for _ in conversations]
        places, turn = iter(range(len(conversations))), threading.Lock()
        stop, room = threading.Event(), threading.Semaphore(AHEAD * self.concurrency)

        def work() -> None:
            while True:
                room.acquire()
                with turn:
                    place = next(places, None)
                if place is None:
                    return
                try:
                    found[place].put(self._answer(conversations[place], max_new_tokens, stop))
                except Exception as error:  # whoever waits for this answer must hear of it
                    found[place].put(error)

        # Daemons: whoever interrupts a run does not wait for the server.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(found)))]
        for worker in workers:
            worker.start()
        try:
            yield from self._in_order(found, stop, room)
        finally:
            stop.set()
            with turn:
                places = iter(())
            room.release(len(workers) or 1)

    def _in_order(
        self, found: "Sequence[SimpleQueue[Said | Exception]]", stop: threading.Event, room: threading.Semaphore
    ) -> Iterator[Said]:
        """What the workers put; when the server is down, what is under way is awaited and the rest is left."""
        row, down, left = 0, "", len(found)
        for place, queue in enumerate(found):
            said = queue.get()
            room.release()
            if isinstance(said, Exception):
                raise said
            yield said
            row = row + 1 if isinstance(said, _Trouble) else 0
            if isinstance(said, _Trouble) and not down and (isinstance(said, _Gone) or row >= DOWN):
                down, left = said.reason, min(len(found), place + 1 + AHEAD * self.concurrency)
                stop.set()
            if down and place + 1 >= left:
                raise EvalError(f"{down}; what it answered is kept, the same command goes on when it is there again")

    # ---- one conversation ------------------------------------------------------------------------

    def _answer(self, conversation: Sequence[Message], max_new_tokens: int, stop: threading.Event) -> Said:
        """Asked as often as it takes, or as often as is allowed."""
        if stop.is_set():
            return Failure("not asked: the server was down")
        try:
            body = json.dumps(self._body(conversation, max_new_tokens)).encode()
        except OwlError as error:
            return Failure(str(error))
        for attempt in range(self.retries + 1):
            try:
                return self._ask(body)
            except _Passing as error:
                if attempt == self.retries or stop.is_set():
                    kind = _Gone if isinstance(error.__cause__, _ABSENT) else _Trouble
                    return kind(f"{self.url}: {error}, after {attempt + 1} attempts")
                with self._counting:
                    self.usage.retries += 1
                stop.wait(min(error.wait if error.wait is not None else self.backoff * 2**attempt, LONGEST_WAIT))
        raise AssertionError("the last attempt returns")

    def _body(self, conversation: Sequence[Message], max_new_tokens: int) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": _content(m.content)} for m in conversation],
            "max_tokens": max_new_tokens,
            "temperature": 0,
            **self.request,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _ask(self, body: bytes) -> Said:
        """One attempt."""
        headers = {"Content-Type": "application/json", "User-Agent": "mplug_owl"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        with self._counting:
            self.usage.requests += 1
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return self._read(_all_of(response, time.monotonic() + self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except urllib.error.URLError as error:
            raise _Passing(f"cannot be reached ({error.reason})") from (
                error.reason if isinstance(error.reason, Exception) else error
            )
        except TimeoutError as error:
            raise _Passing(f"no answer within {self.timeout:g} s") from error
        except (OSError, HTTPException) as error:
            raise _Passing(f"the connection broke off ({error or type(error).__name__})") from error

    def _refused(self, error: urllib.error.HTTPError) -> Said:
        said = _message(error.read())
        if error.code in PASSING:
            raise _Passing(f"answers {error.code}: {said}", _asked_wait(error.headers.get("Retry-After")))
        kind = _Gone if error.code in REFUSING else Failure
        return kind(f"{self.url} answers {error.code}: {said}")

    def _read(self, text: bytes) -> Said:
        """The answer in what the server sent."""
        try:
            reply = json.loads(text)
            choice = reply["choices"][0]
            message = choice["message"]
            said = message.get("content") or message.get("refusal")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Passing(f"answers {text[:200]!r}, which is no chat completion") from None
        used = reply.get("usage") or {}
        with self._counting:
            self.usage.prompt_tokens += used.get("prompt_tokens") or 0
            self.usage.completion_tokens += used.get("completion_tokens") or 0
        if said is None and message.get("content") is None:
            return Failure(f"{self.url} gave no text (finish_reason {choice.get('finish_reason')!r})")
        return str(said or "")


def _all_of(response: Any, deadline: float) -> bytes:
    """The body; a server that trickles is out of time too."""
    parts: list[bytes] = []
    while part := response.read1(2**16):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def _message(body: bytes) -> str:
    """What a server says is wrong, in a line."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, Mapping) else error
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return " ".join(str(text).split())[:300] or "without a word"


def _asked_wait(header: str | None) -> float | None:
    """The seconds of a Retry-After, which are a number or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


# ---- contents ------------------------------------------------------------------------------------


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return [plain for part in parts for plain in _plain(part)]


def _plain(part: Part) -> list[dict[str, Any]]:
    if isinstance(part, TextPart):
        return [{"type": "text", "text": part.text}]
    if isinstance(part, VideoPart):
        frames = load_video(part.source, part.num_frames or FRAMES)
        return [plain for frame in frames for plain in _plain(ImagePart(frame))]
    return [{"type": "image_url", "image_url": {"url": _url(part.source)}}]


def _url(source: Any) -> str:
    """An address that the server fetches, or the picture itself; files as they are, whatever else as PNG."""
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:image/")):
        return source
    if not hasattr(source, "picture") and not hasattr(source, "save"):
        content = read(source, USUAL)
        kind = next((name for start, name in _KINDS.items() if content.startswith(start)), None)
        if kind is not None:
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    buffer = io.BytesIO()
    picture = load_image(source)
    (picture if picture.mode in ("RGB", "RGBA", "L", "P", "1", "LA") else picture.convert("RGB")).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
