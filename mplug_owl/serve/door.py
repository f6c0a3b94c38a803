"""The door of a cluster: it takes requests in and hands them to replicas, each conversation to the same one.

A request that no byte of an answer has left for yet is handed to another replica where the first one died. It knows
neither models nor what a request means; it reads as much of a body as tells conversations apart.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mplug_owl.serve.account import SCOPE, account_of
from mplug_owl.serve.app import answer_error
from mplug_owl.serve.completion import hung_up
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.replies import BUSY_SECONDS, Refusal, stopping
from mplug_owl.serve.stream import event

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

TRIES = 4
"""Replicas that one request may lose."""
LOOK = 5.0
"""Seconds within which replicas must answer those who look after the machine."""
CARRIED = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")
"""What of a request's scope goes to a replica."""


def make_door(replicas: "DeploymentHandle[Any]", options: ServeOptions) -> FastAPI:
    """The application in front of the replicas; it answers at the addresses that each of them has."""
    service = Door(replicas, options)
    handlers: dict[int | type[Exception], Any] = {Refusal: answer_error, Exception: answer_error}
    app = FastAPI(title="owl serve", docs_url=None, redoc_url=None, openapi_url=None, exception_handlers=handlers)
    app.state.options, app.state.service = options, service
    app.mount("/", service)
    return app


class Door:
    def __init__(self, replicas: "DeploymentHandle[Any]", options: ServeOptions) -> None:
        self.replicas = replicas
        self.options = options
        self.stopping = False
        """Whether no more requests are taken; those that are here end in peace."""
        self.under_way: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a replica answer, as long as the client is there."""
        if scope["path"] == "/metrics":
            return await Response(await self.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)(scope, receive, send)
        if self.stopping:
            raise stopping()
        body = await whole(receive)
        work = asyncio.create_task(self.relay(scope, body, send))
        self.under_way.add(work)
        gone = asyncio.create_task(hung_up(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            self.under_way.discard(work)
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        return None

    async def relay(self, scope: Scope, body: bytes, send: Send) -> None:
        """The reply of a replica: as it comes where it is a stream, else all of it once it is there.

        Raises: Refusal where none could answer.
        """
        held: list[Message] = []
        begun = False
        for attempt in range(1, TRIES + 1):
            held.clear()
            try:
                async with aclosing(self.reply(scope, body)) as reply:
                    async for message in reply:
                        begun = begun or is_stream(message)
                        if begun:
                            await send(message)
                        else:
                            held.append(message)
                break
            except LostError as lost:
                told = Refusal(503, f"{lost}; ask again", code="replica_lost", retry_after=BUSY_SECONDS)
                if begun:
                    await send({"type": "http.response.body", "body": event(told.body), "more_body": False})
                    return
                if attempt == TRIES:
                    raise told from lost
        for message in held:
            await send(message)

    async def reply(self, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """The messages of one replica's reply. Raises: LostError where it died; Refusal where all are busy."""
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

        asked = {name: scope[name] for name in CARRIED if name in scope}
        asked["state"] = {name: value for name, value in scope.get("state", {}).items() if name == "key"}
        patience = LOOK if scope["method"] == "GET" else self.options.request_timeout + LOOK
        way = self.replicas.options(stream=True, session_id=conversation_of(scope, body))
        messages = way.answer.remote(asked, body)
        ended = False
        try:
            while True:
                try:
                    message = await asyncio.wait_for(anext(messages), patience)
                except StopAsyncIteration:
                    ended = True
                    return
                if message["type"] == SCOPE:
                    vars(account_of(scope)).update(known(message["account"]))
                else:
                    yield message
        except TimeoutError:
            said = f"no replica answered within {patience:g} s; try again"
            raise Refusal(503, said, code="no_replica", retry_after=BUSY_SECONDS) from None
        except (BackPressureError, DeploymentUnavailableError) as busy:
            raise Refusal(
                503, "all replicas are busy; try again later", code="busy", retry_after=BUSY_SECONDS
            ) from busy
        except ReplicaUnavailableError as lost:
            raise LostError("the replica that answered has gone") from lost
        except RayError as lost:
            if isinstance(lost, TaskCancelledError) or (isinstance(lost, RayTaskError) and not is_death(lost)):
                raise  # a fault of ours, which would meet the next replica too
            raise LostError("the replica that answered has gone") from lost
        finally:
            if not ended:
                with suppress(Exception):  # it may be gone, which is what is wanted
                    messages.cancel()

    async def metrics(self) -> bytes:
        """Those of all replicas, told apart by their names."""
        found = await self.replicas.broadcast("metrics").results_async(timeout_s=LOOK, return_exceptions=True)
        registry = CollectorRegistry()
        registry.register(Replicas([each for each in found if not isinstance(each, BaseException)]))
        return bytes(generate_latest(registry))

    @property
    def busy(self) -> bool:
        return bool(self.under_way)

    def give_up(self) -> None:
        """Leave whatever is being answered."""
        for work in self.under_way:
            work.cancel()


class LostError(Exception):
    """A replica is gone, with what it was asked."""


class Replicas(Collector):
    """The metrics of many replicas as one page."""

    def __init__(self, pages: Sequence[tuple[str, str]]) -> None:
        self.pages = pages

    def collect(self) -> list[Metric]:
        families: dict[str, Metric] = {}
        for replica, page in self.pages:
            for family in text_string_to_metric_families(page):
                one = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    one.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
        return list(families.values())


# ---- what tells conversations apart --------------------------------------------------------------


def conversation_of(scope: Scope, body: bytes) -> str:
    """The same for all turns of a conversation: who asks which model, and how it began.

    A client that knows better says so, by `prompt_cache_key` or a header `X-Session-Id`. What is no conversation gets
    an empty name and goes anywhere.
    """
    headers = {name: value for name, value in scope["headers"] if name in (b"x-session-id", b"authorization")}
    if b"x-session-id" in headers:
        return digest(headers[b"x-session-id"])
    if scope["method"] != "POST":
        return ""
    try:
        asked = json.loads(body)
        named = asked.get("prompt_cache_key")
        beginning = named if isinstance(named, str) else beginning_of(asked["messages"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    said = json.dumps([asked.get("model"), beginning], sort_keys=True).encode()
    return digest(headers.get(b"authorization", b"") + b"\n" + said)


def beginning_of(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A conversation up to the first word of the user, pictures included: what no later turn changes.

    Raises: IndexError where no user has a word.
    """
    users = [place for place, message in enumerate(messages) if message.get("role") == "user"]
    return [[message.get("role"), message.get("content")] for message in messages[: users[0] + 1]]


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


# ---- messages ------------------------------------------------------------------------------------


async def whole(receive: Receive) -> bytes:
    """The body of a request; whoever stands in front has seen to its size."""
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def is_stream(start: Message) -> bool:
    """Whether a reply begins here that goes on for as long as an answer does."""
    kinds = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


def is_death(error: Exception) -> bool:
    """Whether a fault that a replica reports is another one's death."""
    from ray.exceptions import RayActorError

    return isinstance(getattr(error, "cause", None), RayActorError)


def known(account: Any) -> dict[str, Any]:
    """What a replica knows of a request better than the door; the clocks of two machines do not agree."""
    names = ("id", "model", "stream", "outcome", "prompt", "cached", "generated", "asked", "answers")
    return {name: getattr(account, name) for name in names}
