"""A real HTTP server in OpenAI's shape that does what a test tells it to: answers, refuses, stalls, drops."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    text: str | None
    usage: tuple[int, int] = (7, 3)


@dataclass(frozen=True)
class Refusal:
    status: int
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Bytes with status 200 that are what they are."""

    body: bytes


class Drop:
    """The connection breaks off without a word."""


Reply = Answer | Refusal | Raw | Drop


def said(body: Body) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@dataclass
class Scripted:
    """What was asked of a server, and where it is; `reply` gets a request and how often the same came before."""

    reply: Callable[[Body, int], Reply]
    bodies: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    port: int = 0
    most: int = 0
    """Requests that were here at once, at most."""
    here: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def asked(self) -> list[str]:
        return [said(body) for body in self.bodies]

    def take(self, body: Body, headers: Mapping[str, str]) -> Reply:
        with self.lock:
            before = sum(other == body for other in self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self.here += 1
            self.most = max(self.most, self.here)
        try:
            return self.reply(body, before)
        finally:
            with self.lock:
                self.here -= 1


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up early is no error here."""


@contextmanager
def scripted(reply: Callable[[Body, int], Reply], port: int = 0) -> Iterator[Scripted]:
    """Serve until the block ends, on a free port unless one is given."""
    script = Scripted(reply)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = script.take({"path": self.path, **body}, dict(self.headers))
            if isinstance(found, Drop):
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if isinstance(found, Raw):
                self._send(200, found.body, {})
            elif isinstance(found, Refusal):
                self._send(found.status, json.dumps({"error": {"message": found.message}}).encode(), found.headers)
            else:
                prompt, completion = found.usage
                message = {"role": "assistant", "content": found.text}
                whole = {
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
                }
                self._send(200, json.dumps(whole).encode(), {})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with _Quiet(("127.0.0.1", port), Handler) as server:
        script.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
