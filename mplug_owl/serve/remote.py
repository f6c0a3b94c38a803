"""Answers from a server that speaks the OpenAI API: many at a time, in order, and patient.

A server that is busy, gone or restarting is asked again until it answers; what it says of one line is that line's
record. Pictures and videos that lie here are sent along. Which server it is and what model runs on it is not known.
"""

import base64
import http.client
import json
import mimetypes
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from mplug_owl.engine.batch import REMOTE, Answering, Record, conversation
from mplug_owl.errors import DataError, OwlError, RequestError
from mplug_owl.media import Limits
from mplug_owl.media.source import read
from mplug_owl.messages import ImagePart, Message, Part, TextPart, VideoPart, to_openai

PASSING = {408, 425, 429, 502, 503, 504}  # may pass; a 500 often does not, so it is tried a few times only
HOPELESS = {401, 403, 404}  # true of every line: the key or the model is wrong
TRIES_AT_FAULT = 4
"""How often a line may be followed by a 500, or by a lost connection: the server may be dying of it."""
LONGEST_PAUSE = 30.0
WINDOW = 8  # lines in hand for each that may be asked: one slow answer does not hold up the others

# What our wishes are called there; those in the second table are sent only where they are not what everyone does.
NAMES = {"max_new_tokens": "max_tokens", "temperature": "temperature", "seed": "seed", "stop": "stop"}
NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class Reply(NamedTuple):
    status: int
    retry_after: float | None
    body: bytes


class LostError(Exception):
    """The connection ended before the answer did."""


class Wire:
    """A connection of one thread; it is made anew when it is lost, and may be cut from another thread."""

    def __init__(self, address: SplitResult, timeout: float) -> None:
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(address.hostname or "", address.port, timeout=timeout)

    def exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Raises: OSError where nobody is there; LostError where somebody was, and left without an answer."""
        try:
            if self.connection.sock is None:
                self.connection.connect()
            try:
                # A server that refuses a large body may say so, and hang up, before it has read all of it.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.connection.request(method, path, body, dict(headers))
                with self.connection.getresponse() as response:
                    return Reply(response.status, pause_of(response.getheader("Retry-After")), response.read())
            except (OSError, http.client.HTTPException) as error:
                raise LostError(str(error) or type(error).__name__) from error
        except BaseException:
            self.connection.close()  # half an answer may lie in it
            raise

    def cut(self) -> None:
        link = self.connection.sock
        if link is not None:
            with suppress(OSError):  # it may be closed already
                link.shutdown(socket.SHUT_RDWR)


class Server:
    """Where conversations are answered, and with how much patience."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        model: str | None = None,
        at_once: int = 16,
        timeout: float = 600.0,
        patience: float = 600.0,
    ) -> None:
        address = urlsplit(url if "://" in url else f"http://{url}")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise RequestError(f"server {url!r}; expected an address such as http://localhost:8000")
        if at_once < 1:
            raise RequestError(f"{at_once} requests at once; expected 1 or more")
        self.address = address
        self.path = address.path.rstrip("/").removesuffix("/v1") + "/v1"
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.model = model
        self.at_once = at_once
        self.timeout = timeout
        self.patience = patience
        self._stopped = threading.Event()
        self._own = threading.local()
        self._wires: list[Wire] = []

    def answering(self, folder: Path, options: Mapping[str, Any]) -> Answering:
        """What `engine.batch.answer_file` takes; `options` are those of `Owl.ask`, and a line may have its own.

        Raises, for lines that are read: RequestError where the server stays away, or refuses whatever it is asked.
        """

        def records(lines: Iterator[str]) -> Generator[Record, None, None]:
            underway: deque[Future[Record]] = deque()
            pool = ThreadPoolExecutor(self.at_once, "owl-remote")
            try:
                for line in lines:
                    underway.append(pool.submit(self.record, line, folder, options))
                    if len(underway) >= WINDOW * self.at_once:
                        yield underway.popleft().result()
                while underway:
                    yield underway.popleft().result()
            finally:
                self.stop()
                pool.shutdown(cancel_futures=True)
                for wire in self._wires:
                    wire.connection.close()

        return records

    def record(self, line: str, folder: Path, options: Mapping[str, Any]) -> Record:
        """What becomes of one line."""
        model = self.name()
        try:
            messages, own = conversation(line, folder)
            asked = request(messages, {**options, **own})
        except OwlError as error:
            return {"error": str(error)}
        try:
            reply = self.ask("POST", "/chat/completions", json.dumps({"model": model, **asked}).encode())
        except DataError as error:
            return {"error": str(error)}
        return answered(reply.body) if reply.status == 200 else {"error": said(reply)}

    def name(self) -> str:
        """The model that is asked: the server's first, unless one was named."""
        if self.model is None:
            reply = self.ask("GET", "/models", None)
            try:
                self.model = str(json.loads(reply.body)["data"][0]["id"])
            except (ValueError, LookupError, TypeError):
                raise RequestError(f"{self.address.geturl()} lists no models ({said(reply)}); name one") from None
        return self.model

    def ask(self, method: str, path: str, body: bytes | None) -> Reply:
        """The first reply that is not about how the server is doing.

        Raises: RequestError where it stays away for longer than there is patience, or refuses on principle; DataError
        where it is this request that it cannot bear.
        """
        began, faults = time.monotonic(), 0
        for attempt in count():
            if self._stopped.is_set():
                break
            wait = None
            try:
                reply = self.wire().exchange(method, self.path + path, body, self.headers)
            except OSError as error:
                trouble = str(error)
            except LostError as error:
                trouble, faults = str(error), faults + 1
                if faults >= TRIES_AT_FAULT:
                    raise DataError(f"the connection was lost {faults} times before the answer ({trouble})") from None
            else:
                faults += reply.status == 500
                if reply.status in HOPELESS:
                    raise RequestError(f"{self.address.geturl()} refuses: {said(reply)}")
                if reply.status not in PASSING and (reply.status != 500 or faults >= TRIES_AT_FAULT):
                    return reply
                trouble, wait = said(reply), reply.retry_after
            # Spread out, so that those who were refused together do not come back together.
            usual = min(LONGEST_PAUSE, 0.25 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            pause = usual if wait is None else wait
            if time.monotonic() - began + pause > self.patience:
                raise RequestError(
                    f"{self.address.geturl()} has not answered for {self.patience:.0f} s ({trouble}); "
                    "the same command goes on once it does"
                )
            self._stopped.wait(pause)
        raise RequestError("asking was stopped")

    def wire(self) -> Wire:
        """The connection of this thread."""
        if not hasattr(self._own, "wire"):
            self._own.wire = Wire(self.address, self.timeout)
            self._wires.append(self._own.wire)
        wire: Wire = self._own.wire
        return wire

    def stop(self) -> None:
        """Ask nothing more, and end what is being asked."""
        self._stopped.set()
        for wire in self._wires:
            wire.cut()


# ---- what is sent, and what comes back -----------------------------------------------------------


def request(messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation and our wishes in the OpenAI form.

    Raises: DataError where a file cannot be sent; RequestError for a wish that this form cannot say.
    """
    if options.get("template") is not None:
        raise RequestError(f"template {options['template']!r} for a server; the server's own is used, leave it out")
    if options.get("system") is not None and not any(message.role == "system" for message in messages):
        messages = [Message("system", options["system"]), *messages]
    wishes = {NAMES[name]: value for name, value in options.items() if name in NAMES and value not in (None, [], "")}
    unusual = {name: options[name] for name, usual in NEUTRAL.items() if options.get(name, usual) != usual}
    sent = [Message(message.role, [carried(part) for part in message.content]) for message in messages]
    return {"messages": to_openai(sent), **wishes, **unusual}


def carried(part: Part) -> Part:
    """The same part, with the bytes of a file in place of its path."""
    if isinstance(part, TextPart) or not isinstance(part.source, str) or part.source.startswith(REMOTE):
        return part
    if Path(part.source).is_dir():
        raise DataError(f"{part.source!r} is a folder of frames, which cannot be sent to a server; make a video of it")
    usual = "image/png" if isinstance(part, ImagePart) else "video/mp4"
    kind = mimetypes.guess_type(part.source)[0] or usual
    source = f"data:{kind};base64,{base64.b64encode(read(part.source, Limits())).decode()}"
    return VideoPart(source, part.num_frames) if isinstance(part, VideoPart) else ImagePart(source)


def answered(body: bytes) -> Record:
    try:
        reply = json.loads(body)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens") if name in usage}
        return {"answer": choice["message"]["content"] or "", "finish_reason": choice["finish_reason"], **counts}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {"error": f"the server's reply is no chat completion: {body[:200]!r}"}


def said(reply: Reply) -> str:
    """What a reply says in words, whatever shape it has."""
    try:
        return f"{reply.status} {json.loads(reply.body)['error']['message']}"
    except (ValueError, LookupError, TypeError):
        words = " ".join(reply.body[:200].decode(errors="replace").split())
        return f"{reply.status} {words or http.client.responses.get(reply.status, '')}"


def pause_of(header: str | None) -> float | None:
    """The seconds that Retry-After asks for; it may be a number or a date."""
    if header is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None
