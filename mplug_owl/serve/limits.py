"""Who may ask, and how much: keys, requests a minute, requests at a time.

A caller is a key, or an address where there are no keys. What is counted for callers takes bounded memory, however many
addresses somebody owns. Requests are told apart by their headers alone; bodies are not known here.
"""

import base64
import binascii
import ipaddress
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mplug_owl.errors import ConfigError
from mplug_owl.serve.journal import record
from mplug_owl.serve.keys import Key, Keys
from mplug_owl.serve.replies import Refusal

OPEN = ("/health", "/ready")  # for whoever looks after the machine; they tell nothing
MOST_CALLERS = 4096
MOST_AT_ONCE = 1024
"""Requests under way, of all callers together."""
_BETWEEN_SWEEPS = 1.0  # seconds
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass
class Meter:
    """What one caller has left: a bucket that fills evenly and holds a minute's worth, and places for requests."""

    rate: float | None
    """Requests a minute."""
    concurrent: int | None
    left: float = field(init=False)
    seen: float = -math.inf
    running: int = 0

    def __post_init__(self) -> None:
        self.left = self.size

    @property
    def size(self) -> float:
        return math.inf if self.rate is None else max(1.0, self.rate)

    def fill(self, now: float) -> None:
        if self.rate is not None:
            self.left = min(self.size, self.left + max(0.0, now - self.seen) * self.rate / 60)
        self.seen = now

    def is_as_new(self, now: float) -> bool:
        """Whether forgetting it would change nothing."""
        self.fill(now)
        return not self.running and self.left >= self.size

    def take(self, now: float) -> None:
        """Count a request. Raises: Refusal where it is one too many."""
        self.fill(now)
        if self.concurrent is not None and self.running >= self.concurrent:
            raise Refusal(
                429,
                f"{self.running} requests are under way, of {self.concurrent} at a time; wait for one of them",
                code="too_many_at_once",
                retry_after=1,
                headers=self.headers(),
            )
        if self.left < 1:
            seconds = self._until(1)
            raise Refusal(
                429,
                f"over {self.rate:g} requests a minute; the next may come in {seconds:.1f} s",
                code="rate_limit_exceeded",
                retry_after=math.ceil(seconds),
                headers=self.headers(),
            )
        self.left -= 1
        self.running += 1

    def _until(self, level: float) -> float:
        """Seconds until the bucket holds so much."""
        assert self.rate is not None
        return max(0.0, level - self.left) * 60 / self.rate

    def headers(self) -> dict[str, str]:
        """What OpenAI's clients know of limits."""
        if self.rate is None:
            return {}
        return {
            "x-ratelimit-limit-requests": f"{self.size:g}",
            "x-ratelimit-remaining-requests": str(int(self.left)),
            "x-ratelimit-reset-requests": f"{self._until(self.size):.3f}s",
        }


class Callers:
    """The meters of all callers, never more than a fixed number of them.

    Meters that say nothing any more are forgotten. Where all say something, newcomers share one, so inventing
    addresses neither fills the memory nor wins a request.
    """

    def __init__(
        self,
        rate: float | None = None,
        concurrent: int | None = None,
        *,
        most: int = MOST_CALLERS,
        at_once: int = MOST_AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate, self.concurrent = rate, concurrent
        self.most, self.at_once = most, at_once
        self.clock = clock
        self.running = 0
        """Requests under way, of all callers together."""
        self._meters: dict[str, Meter] = {}
        self._strangers = Meter(rate, concurrent)
        self._swept = -math.inf

    def __len__(self) -> int:
        return len(self._meters)

    def meter(self, name: str, key: Key | None = None) -> Meter:
        rate = self.rate if key is None or key.rate is None else key.rate
        concurrent = self.concurrent if key is None or key.concurrent is None else key.concurrent
        found = self._meters.get(name)
        if found is None:
            if len(self._meters) >= self.most:
                self._sweep()
            if len(self._meters) >= self.most:
                return self._strangers
            found = self._meters[name] = Meter(rate, concurrent)
        elif (found.rate, found.concurrent) != (rate, concurrent):  # the key was changed
            found.rate, found.concurrent = rate, concurrent
            found.left = min(found.left, found.size)
        return found

    def _sweep(self) -> None:
        now = self.clock()
        if now - self._swept < _BETWEEN_SWEEPS:
            return
        self._swept = now
        self._meters = {name: meter for name, meter in self._meters.items() if not meter.is_as_new(now)}

    def enter(self, name: str, key: Key | None = None) -> Meter:
        """Count a request of a caller, until it leaves. Raises: Refusal where it is one too many."""
        if self.running >= self.at_once:
            raise Refusal(503, f"{self.running} requests are under way; try again", code="busy", retry_after=1)
        meter = self.meter(name, key)
        meter.take(self.clock())
        self.running += 1
        return meter

    def leave(self, meter: Meter) -> None:
        meter.running -= 1
        self.running -= 1


class Gate:
    """The layer that knows callers: it sends away who may not ask, or not now."""

    def __init__(
        self, app: ASGIApp, *, callers: Callers, keys: Keys | None = None, hosts: Collection[str] | None = None
    ) -> None:
        self.app, self.callers, self.keys, self.hosts = app, callers, keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it
            return await send({"type": "websocket.close", "code": 1008, "reason": ""})
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        try:
            meter = self._admit(scope)
        except Refusal as refused:
            record(scope).code = refused.code
            return await refused.response()(scope, receive, send)
        if meter is None:
            return await self.app(scope, receive, send)
        try:
            await self.app(scope, receive, _with_headers(send, meter))
        finally:
            self.callers.leave(meter)
        return None

    def _admit(self, scope: Scope) -> Meter | None:
        """The meter on which a request counts, if it is one that counts. Raises: Refusal."""
        self._check_host(scope)
        scope["state"].update(key=self._key(scope), callers=self.callers)
        return self.callers.enter(*_caller(scope)) if _is_work(scope) else None

    def _check_host(self, scope: Scope) -> None:
        """A web page may point a name of its own at this machine; the browser then takes us for a part of it."""
        if self.hosts is None:
            return
        host = _host(Headers(scope=scope).get("host", ""))
        if host not in self.hosts:
            raise Refusal(
                403,
                f"host {host[:100]!r} is not this server, which answers its own machine only, as {min(self.hosts)}; "
                "to serve others, start it with --keys",
                code="unknown_host",
            )

    def _key(self, scope: Scope) -> Key | None:
        if self.keys is None:
            return None
        shown = _shown(Headers(scope=scope).get("authorization", ""))
        try:
            key = None if shown is None else self.keys.find(shown)
        except ConfigError as error:
            record(scope).reason = str(error)
            said = "the keys of the server cannot be read; whoever runs it must mend their file"
            raise Refusal(503, said, code="keys_unreadable", retry_after=30) from None
        if key is None:
            said = "no key; send one as Authorization: Bearer KEY" if shown is None else "the key is not known here"
        elif key.is_expired:
            said = "the key has expired; whoever runs the server can make another"
        else:
            record(scope).key = key.name
            return key
        challenge = "Bearer" if scope["path"].startswith(("/v1/", "/metrics", "/openapi")) else 'Basic realm="owl"'
        raise Refusal(401, said, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


@contextmanager
def as_request(scope: Scope) -> Iterator[None]:
    """Count a question on a page as a request of whoever asks, until it is answered; what else a page sends is free.

    Raises: Refusal where it is one too many.
    """
    callers: Callers | None = scope.get("state", {}).get("callers")
    if callers is None:  # no gate stands in front
        yield
        return
    meter = callers.enter(*_caller(scope))
    try:
        yield
    finally:
        callers.leave(meter)


def _caller(scope: Scope) -> tuple[str, Key | None]:
    key: Key | None = scope["state"]["key"]
    return _address(scope) if key is None else f"key {key.id}", key


def check_model(scope: Scope, model: str) -> None:
    """Raises: Refusal where the key of a request does not allow the model."""
    key: Key | None = scope.get("state", {}).get("key")
    if key is not None and not key.allows(model):
        raise Refusal(403, f"the key may not ask {model!r}", param="model", code="model_not_allowed")


def allowed_models(scope: Scope, models: Iterable[str]) -> list[str]:
    """Those the key of a request allows."""
    key: Key | None = scope.get("state", {}).get("key")
    return [model for model in models if key is None or key.allows(model)]


def local_hosts(host: str) -> tuple[str, ...] | None:
    """The names of a server that listens at `host`, if that is its own machine alone."""
    return _LOOPBACK if _host(host) in _LOOPBACK else None


def _is_work(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].startswith("/v1/")


def _address(scope: Scope) -> str:
    """What counts as one caller: an address, or the network that one household has of the newer kind."""
    client = scope.get("client")
    try:
        ip = ipaddress.ip_address(client[0].partition("%")[0] if client else "")
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _host(text: str) -> str:
    """A Host header without its port."""
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    return text.lower() if text.count(":") > 1 else text.partition(":")[0].lower()


def _shown(header: str) -> str | None:
    """The key in a header: as a bearer, or as the password that a browser asks for."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() == "bearer":
        return text.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(text, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, ValueError):
            return None
    return None


def _with_headers(send: Send, meter: Meter) -> Send:
    async def said(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(meter.headers())
        await send(message)

    return said
