"""What comes in, before anybody looks into it: how large it may be, how slow, and of which kind.

The body of a request to the API is heard out here, as long as it comes fast enough and is not too large, and handed on
in one piece; pages get theirs as it comes. `protect` puts all layers around an application. What a body says is not
known here.
"""

import asyncio
from contextlib import suppress
from typing import TextIO

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mplug_owl.serve.journal import Journal, record
from mplug_owl.serve.keys import Keys
from mplug_owl.serve.limits import Callers, Gate, local_hosts
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import Refusal

PATIENCE = 20.0
"""Seconds without a byte, and seconds before the average counts."""
SLOWEST = 32 * 2**10
"""Bytes a second of a body, on average: a modem sent as many."""
LINGER = 2.0
"""Seconds that the rest of a refused body is heard out."""
MOST_PARTS = 50_000
"""Brackets and commas of a body: each may become an object, which takes much more memory than it took bytes."""
HELD = 16
"""Bodies of the largest size that may lie in memory together."""


def protect(app: Starlette, options: ServeOptions, *, log: TextIO | None = None, patience: float = PATIENCE) -> None:
    """Put the layers around an application: the journal, then the gate, then the intake.

    `app.state.callers` is what the gate counts. The log goes to stderr unless told otherwise; `patience` is for bodies.

    Raises: ConfigError where the file of the keys cannot be read.
    """
    keys = Keys(options.keys) if options.keys is not None else None
    app.state.callers = Callers(options.rate, options.concurrent)
    hosts = local_hosts(options.host) if keys is None else None
    app.add_middleware(Intake, max_body=options.max_body, patience=patience)
    app.add_middleware(Gate, callers=app.state.callers, keys=keys, hosts=hosts)
    app.add_middleware(Journal, log_contents=options.log_contents, stream=log)  # the last is the outermost


class Pace:
    """Hears a body as long as it comes fast enough; whatever follows the body may take its time."""

    def __init__(self, receive: Receive, patience: float = PATIENCE, slowest: float = SLOWEST) -> None:
        self.receive, self.patience, self.slowest = receive, patience, slowest
        self.loop = asyncio.get_running_loop()
        self.started = self.loop.time()
        self.size = 0
        self.ended = False

    async def __call__(self) -> Message:
        """Raises: TimeoutError where the body stalls, or drips."""
        if self.ended:
            return await self.receive()
        drips = self.started + self.patience + self.size / self.slowest
        async with asyncio.timeout_at(min(drips, self.loop.time() + self.patience)):
            message = await self.receive()
        self.size += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message


class Intake:
    """The layer that hears bodies out."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body: int,
        held: int = HELD,
        patience: float = PATIENCE,
        slowest: float = SLOWEST,
        linger: float = LINGER,
    ) -> None:
        self.app = app
        self.max_body, self.most_held = max_body, held * max_body
        self.patience, self.slowest, self.linger = patience, slowest, linger
        self.held = 0
        """Bytes of the bodies of all requests under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        pace = Pace(receive, self.patience, self.slowest)
        if scope["method"] not in ("POST", "PUT", "PATCH") or not scope["path"].startswith("/v1/"):
            return await self.app(scope, _passed_on(pace), send)
        share = _Share(self)
        try:
            whole = await self._whole(scope, pace, share)
            if whole is not None:
                await self.app(scope, whole, send)
        except _TurnedAway as away:
            record(scope).code = away.refusal.code
            await self._turn_away(away.refusal, pace, send)
        finally:
            share.give_back()
        return None

    async def _whole(self, scope: Scope, pace: Pace, share: "_Share") -> "_Whole | None":
        """The body in one piece; None where the client left."""
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            # A web page may send other kinds to any server without asking its reader.
            said = f"a body of type {kind[:100]!r}; expected Content-Type: application/json"
            raise _TurnedAway(Refusal(415, said, code="unsupported_media_type"))
        share.grow(int(headers.get("content-length", 0)))
        pieces = bytearray()
        while not pace.ended:
            try:
                message = await pace()
            except TimeoutError:
                said = f"the body stopped or came too slowly, after {len(pieces)} bytes; send it again"
                raise _TurnedAway(Refusal(408, said, code="body_timeout")) from None
            if message["type"] != "http.request":
                return None
            pieces += message.get("body", b"")
            share.grow(len(pieces))
        parts = sum(pieces.count(mark) for mark in b"[{,")
        if parts > MOST_PARTS:
            said = f"a body of {parts} parts; at most {MOST_PARTS} are taken: send less"
            raise _TurnedAway(Refusal(413, said, code="body_too_large"))
        return _Whole(bytes(pieces), pace.receive)

    async def _turn_away(self, refusal: Refusal, pace: Pace, send: Send) -> None:
        """Refuse, and hear the rest out for a while: who still sends would find the connection broken, not read why."""
        response = refusal.response()
        response.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(self.linger):
                while not pace.ended:
                    await pace()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _TurnedAway(Exception):
    """Never raised by an application, whose own refusals are not the intake's business."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class _Share:
    """What one request takes of the memory for bodies."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.size = 0

    def grow(self, size: int) -> None:
        """Raises: _TurnedAway where the body is too large, or too many lie here already."""
        intake, more = self.intake, max(0, size - self.size)
        if size > intake.max_body:
            said = f"a body of {size} bytes or more; at most {intake.max_body} are taken: send smaller pictures"
            raise _TurnedAway(Refusal(413, said, code="body_too_large"))
        if intake.held + more > intake.most_held:
            said = f"bodies of {intake.held} bytes are under way; try again"
            raise _TurnedAway(Refusal(503, said, code="busy", retry_after=1))
        intake.held += more
        self.size += more

    def give_back(self) -> None:
        self.intake.held -= self.size
        self.size = 0


class _Whole:
    """What an application hears: the body in one piece, then whatever becomes of the connection."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None  # kept no longer than the application does
        return {"type": "http.request", "body": body, "more_body": False}


def _passed_on(pace: Pace) -> Receive:
    """For who reads a body as it comes: one that is too slow ends like a connection that breaks."""

    async def heard() -> Message:
        try:
            return await pace()
        except TimeoutError:
            return {"type": "http.disconnect"}

    return heard
