"""The log of a server: one JSON line a request, and the last net under it.

A line says who asked which model, what came of it, how many tokens and how long it took; what was asked and answered
only if that is wanted. Whatever the application lets fall becomes an error in the usual shape here, and a fault in the
log. What a request came to stands in its account, which the application keeps.
"""

import json
import re
import sys
import time
import traceback
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mplug_owl.serve.account import Account, account_of
from mplug_owl.serve.replies import refusal

PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds; only their failures are news
# What a page is made of: a browser asks for a hundred of them when it opens one.
PARTS = re.compile(r"/ui/(?:gradio_api/)?(?:(?:assets|static|svelte)/.+|theme\.css|favicon\.ico|manifest\.json)")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST = 200  # letters of an address
_FRAMES = 8


@dataclass
class Record:
    """What is known of one request from outside, before and after the application."""

    id: str
    method: str
    path: str
    address: str | None
    """Where it came from."""
    account: Account
    key: str | None = None
    """Name of the key."""
    status: int | None = None
    code: str | None = None
    """Of a refusal by one of the layers."""
    reason: str | None = None
    """For whoever runs the server: what a client is not told."""
    disconnected: bool = False
    """Whether the client left before the end."""
    fault: BaseException | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def is_usual(self) -> bool:
        """Whether it says nothing to whoever reads the log."""
        usual = self.path in PROBES or (self.method == "GET" and PARTS.fullmatch(self.path) is not None)
        return usual and self.status in (200, 304)

    def line(self, contents: bool) -> str:
        said: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self.id,
            "from": self.address,
            "key": self.key,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(time.perf_counter() - self.started, 4),
            "code": self.code or self.account.code,
            "reason": self.reason,
            "disconnected": self.disconnected or None,
        }
        said |= _came_to(self.account, contents)
        fault = self.fault or self.account.fault
        if fault is not None:
            said |= {"fault": type(fault).__name__, "at": _places(fault)}
            # The message of a fault may quote the request.
            said |= {"message": str(fault)} if contents else {}
        return json.dumps({name: value for name, value in said.items() if value is not None})


def _came_to(account: Account, contents: bool) -> dict[str, Any]:
    """What the application wrote down; nothing of a request that was none for an answer."""
    if account.id is None and account.model is None:
        return {}
    first = account.to_first_token
    said: dict[str, Any] = {
        "answer": account.id,
        "model": account.model and account.model[:_LONGEST],
        "stream": account.stream,
        "outcome": account.outcome,
        "prompt_tokens": account.prompt,
        "cached_tokens": account.cached,
        "completion_tokens": account.generated,
        "first_token": None if first is None else round(first, 4),
    }
    return said | ({"asked": account.asked, "answers": account.answers} if contents else {})


def _places(fault: BaseException) -> list[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(fault.__traceback__), lookup_lines=False)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-_FRAMES:]]


def record(scope: Scope) -> Record:
    """The record of a request that came through the journal."""
    found: Record = scope["state"]["record"]
    return found


class Journal:
    """The outermost layer: it numbers requests, writes down what came of them and lets no fault through."""

    def __init__(self, app: ASGIApp, *, log_contents: bool = False, stream: TextIO | None = None) -> None:
        self.app = app
        self.log_contents = log_contents
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        kept = Record(
            _request_id(scope), scope["method"][:16], scope["path"][:_LONGEST], _address(scope), account_of(scope)
        )
        scope.setdefault("state", {})["record"] = kept
        ended = False

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not ended:
                kept.disconnected = True
            return message

        async def said(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                kept.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = kept.id
            await send(message)
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body", False))

        try:
            await self.app(scope, heard, said)
        except Exception as error:  # not raised again: a server would print it, and with it what was asked
            kept.fault = error
            if kept.status is None:
                await refusal(error).response()(scope, receive, said)
        finally:
            if not kept.is_usual:
                self._write(kept.line(self.log_contents))
            kept.fault = kept.account.fault = None  # its frames hold on to everything the request came with
        return None

    def _write(self, line: str) -> None:
        stream = self.stream or sys.stderr
        with suppress(OSError, ValueError):  # nobody reads the log any more; that is no reason to stop answering
            stream.write(line + "\n")
            stream.flush()


def _request_id(scope: Scope) -> str:
    """The id that the client gave, if it is fit for a log."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


def _address(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None
