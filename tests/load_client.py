"""The other side of the load test, in a process of its own: many clients at once, a fifth of them ill-behaved.

Which request does what follows from a seed. Says as JSON what it met: how often what was done, and every complaint - an
answer that is wrong, or an error that has not the known shape.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

AT_ONCE = 48
PATIENCE = 120.0  # seconds; nobody waits so long
PATH = "/v1/chat/completions"
ERROR = {"message", "type", "param", "code"}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, said: bytes) -> "Reply":
        head, _, body = said.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            body = joined(body)
        return cls(int(first.split()[1]), headers, body)


def joined(body: bytes) -> bytes:
    """The pieces of a chunked body. Raises: ValueError where the last one is missing."""
    pieces = []
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            return b"".join(pieces)
        pieces.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]


@dataclass
class Client:
    """One client: it knows where the server is, and what the right answers are."""

    host: str
    port: int
    right: list[dict[str, Any]]
    """Requests, each with the `text` that answers it."""
    chance: random.Random

    async def say(self, said: bytes, *, hang_up_after: int | None = None) -> bytes:
        """What comes back, up to the end of the connection; or hang up when so many bytes have come."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            with suppress(ConnectionError):  # refused before it was all said
                writer.write(said)
                await writer.drain()
            if hang_up_after is not None:
                await reader.read(hang_up_after) if hang_up_after else None
                writer.transport.abort()
                return b""
            pieces = []
            with suppress(ConnectionError):
                while piece := await reader.read(65536):
                    pieces.append(piece)
            return b"".join(pieces)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def request(
        self, body: bytes, *headers: str, path: str = PATH, method: str = "POST", kind: str = "application/json"
    ) -> bytes:
        length = (
            () if any("ength" in line or "ncoding" in line for line in headers) else (f"Content-Length: {len(body)}",)
        )
        first = (f"{method} {path} HTTP/1.1", f"Host: {self.host}", "Connection: close", f"Content-Type: {kind}")
        return "\r\n".join((*first, *length, *headers, "", "")).encode() + body

    def wish(self, **more: Any) -> dict[str, Any]:
        """One of the requests that are right, changed."""
        return {name: value for name, value in self.chance.choice(self.right).items() if name != "text"} | more


def refused(said: bytes, *statuses: int) -> str | None:
    """The complaint about an error, if there is one."""
    try:
        reply = Reply.of(said)
        error = json.loads(reply.body)["error"]
        sound = reply.status in statuses and error.keys() == ERROR and isinstance(error["message"], str)
    except (ValueError, LookupError, TypeError, AttributeError):
        sound = False
    return None if sound else f"expected {statuses}, got {said[:500]!r}"


# ---- what they do --------------------------------------------------------------------------------


async def right(client: Client) -> str | None:
    asked = client.chance.choice(client.right)
    stream = client.chance.random() < 0.5
    wish = {name: value for name, value in asked.items() if name != "text"} | {"stream": stream}
    said = await client.say(client.request(json.dumps(wish).encode()))
    try:
        reply = Reply.of(said)
        if stream:
            events = [line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line]
            choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            ended = events[-1] == "[DONE]" and choices[-1]["finish_reason"] in ("stop", "length")
        else:
            choice = json.loads(reply.body)["choices"][0]
            text, ended = choice["message"]["content"], choice["finish_reason"] in ("stop", "length")
    except (ValueError, LookupError, AttributeError) as error:
        return f"no answer ({error!r}): {said[:500]!r}"
    if (reply.status, text, ended) != (200, asked["text"], True):
        return f"expected {asked['text']!r}, got {reply.status} {text!r}, ended: {ended}"
    return None


async def mutilated(client: Client) -> str | None:
    body = bytearray(json.dumps(client.wish()).encode())
    for _ in range(client.chance.randint(1, 5)):
        at = client.chance.randrange(len(body))
        if client.chance.random() < 0.5:
            body[at] = client.chance.randrange(256)
        else:
            del body[at : at + client.chance.randint(1, 30)]
    said = await client.say(client.request(bytes(body)))
    return None if said.startswith(b"HTTP/1.1 200 ") else refused(said, 400, 404)


WRONG: tuple[Any, ...] = (None, True, -1, 0.5, "x", [], {}, [[]], 10**30, "\0", {"type": "image"}, float("inf"))
WRONG_FIELDS = ("messages", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "stream", "logprobs", "tools")


async def mistyped(client: Client) -> str | None:
    body = json.dumps(client.wish(**{client.chance.choice(WRONG_FIELDS): client.chance.choice(WRONG)})).encode()
    said = await client.say(client.request(body))
    return None if said.startswith(b"HTTP/1.1 200 ") else refused(said, 400, 404)


async def huge(client: Client) -> str | None:
    return refused(await client.say(client.request(b"{" * 50_000, "Content-Length: 50000000000")), 413)


async def endless(client: Client) -> str | None:
    pieces = (b"20000\r\n" + b" " * 0x20000 + b"\r\n") * 9 + b"0\r\n\r\n"
    return refused(await client.say(client.request(pieces, "Transfer-Encoding: chunked")), 413)


async def bomb(client: Client) -> str | None:
    body = json.dumps({"messages": client.chance.choice(BOMBS), "max_tokens": 2}).encode()
    return refused(await client.say(client.request(body)), 400)


async def inside(client: Client) -> str | None:
    hosts = ("127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "2130706433", "0", "[::ffff:127.0.0.1]", "0x7f.1")
    url = f"http://{client.chance.choice(hosts)}:{client.port}/v1/models"
    body = json.dumps({"messages": shown(url), "max_tokens": 2}).encode()
    return refused(await client.say(client.request(body)), 400)


async def half_a_body(client: Client) -> str | None:
    whole = client.request(json.dumps(client.wish()).encode())
    await client.say(whole[: -client.chance.randint(1, 40)], hang_up_after=0)
    return None


async def half_a_head(client: Client) -> str | None:
    whole = client.request(b"{}")
    await client.say(whole[: client.chance.randrange(60)], hang_up_after=0)
    return None


async def waiting(client: Client) -> str | None:
    """Half a body, and then nothing."""
    return refused(await client.say(client.request(b'{"messages"', "Content-Length: 999")), 408)


async def hanging_up(client: Client) -> str | None:
    wish = client.wish(max_tokens=64, stream=True, n=client.chance.choice([1, 1, 4]))
    await client.say(client.request(json.dumps(wish).encode()), hang_up_after=client.chance.choice([0, 1, 300, 900]))
    return None


async def mistaken(client: Client) -> str | None:
    """Another address, method, type or model."""
    body = json.dumps(client.wish()).encode()
    unknown = json.dumps(client.wish(model="ostrich")).encode()
    said, status = client.chance.choice(
        [
            (client.request(body, path="/v1/completions"), 404),
            (client.request(body, method="PUT"), 405),
            (client.request(body, kind="text/plain"), 415),
            (client.request(unknown), 404),
        ]
    )
    return refused(await client.say(said), status)


async def no_http(client: Client) -> str | None:
    said = client.chance.choice(
        [b"\x16\x03\x01\x02\0" + bytes(50), b"GET\r\n\r\n", b"\0\r\n\r\n", b"x" * 500 + b"\r\n\r\n"]
    )
    return refused(await client.say(said), 400)


HOSTILE: tuple[Callable[[Client], Awaitable[str | None]], ...] = (
    *(mutilated, mistyped, huge, endless, bomb, inside, half_a_body, half_a_head, waiting, hanging_up, mistaken),
    no_http,
)
BOMBS: list[Any] = []


def shown(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


async def crowd(url: str, right_ones: list[dict[str, Any]], seed: int, count: int) -> dict[str, Any]:
    """So many requests, a fifth of them hostile; the order is that of the seed, the pace everybody's own."""
    parts, chance = urlsplit(url), random.Random(seed)
    plan = [(chance.choice(HOSTILE) if chance.random() < 0.2 else right, chance.random()) for _ in range(count)]
    done, complaints = Counter[str](), list[str]()
    left = iter(plan)

    async def one() -> None:
        for act, own in left:
            client = Client(str(parts.hostname), int(parts.port or 80), right_ones, random.Random(own))
            try:
                complaint = await asyncio.wait_for(act(client), PATIENCE)
            except (TimeoutError, OSError, ValueError) as error:
                complaint = repr(error)
            done[act.__name__] += 1
            if complaint is not None:
                complaints.append(f"{act.__name__}: {complaint}")

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return {"done": done, "complaints": complaints}


def main() -> None:
    """Read the job from stdin, do it, write what was met to stdout."""
    job = json.load(sys.stdin)
    BOMBS.extend(shown(url) for url in job["bombs"])
    print(json.dumps(asyncio.run(crowd(job["url"], job["right"], job["seed"], job["count"]))))


if __name__ == "__main__":
    main()
