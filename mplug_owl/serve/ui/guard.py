"""What of Gradio can be reached from outside: its pages, its queue and uploads, and no file but uploads and examples.

Gradio also answers requests that fetch other hosts' addresses, start programs or tell how it is doing; none of them is
needed, so none is let through. It knows addresses and the paths in questions, nothing of what the pages do.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from mplug_owl.serve.ui.options import PageOptions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHOWN = re.compile(
    r"(?:config|theme\.css|manifest\.json|robots\.txt|favicon\.ico|login_check|logout|pwa_icon(?:/\d+)?"
    r"|(?:static|assets|svelte)/.+"
    r"|gradio_api/(?:startup-events|app_id|user|token|login_check|theme\.css|queue/data|upload_progress"
    r"|heartbeat/[\w-]+|file=.+|stream/.+))/?"
)
TOLD = re.compile(r"(?:login|gradio_api/(?:queue/join|cancel|reset))/?")
UPLOAD = re.compile(r"gradio_api/upload/?")
MAX_TOLD = 256 * 1024
"""Bytes of a question without its files; the state of a page is kept here, so it does not come with it."""
FILES_AT_ONCE = 16
LEAST_HELD = 64 * 1024


class Guard:
    """Middleware in front of everything below `prefix`; the rest of the application passes."""

    def __init__(self, app: App, *, prefix: str, pages: Sequence[str], folder: Path, options: PageOptions) -> None:
        self.app = app
        self.prefix = prefix.rstrip("/")
        self.pages = frozenset(pages)
        self.folder = folder
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "lifespan" or not (path == self.prefix or path.startswith(self.prefix + "/")):
            await self.app(scope, receive, send)
            return
        if path == self.prefix and scope["type"] == "http":  # what is mounted there begins after the stroke
            await _answer(send, 307, "", [(b"location", (scope.get("root_path", "") + self.prefix + "/").encode())])
            return
        rest, method = path[len(self.prefix) :].lstrip("/"), scope.get("method")
        if scope["type"] == "http" and method in ("GET", "HEAD") and self._is_shown(rest):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and method == "POST" and TOLD.fullmatch(rest):
            await self._told(scope, receive, send)
        elif scope["type"] == "http" and method == "POST" and UPLOAD.fullmatch(rest):
            await self._upload(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send, 404, "There is no such page.")

    def _is_shown(self, rest: str) -> bool:
        if rest.rstrip("/") in self.pages:
            return True
        # An address after file= would be fetched from here.
        return SHOWN.fullmatch(rest) is not None and "://" not in rest and not rest.partition("=")[2].startswith("//")

    async def _told(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            await _refuse(send, 413, "The question is too long. Shorten it.")
            return
        if not all(self._is_ours(path) for path in _paths(body)):
            await _refuse(send, 403, "A file that was not uploaded here. Upload it first.")
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _is_ours(self, path: Any) -> bool:
        """Whether a path lies among the uploads."""
        if not isinstance(path, str) or "\0" in path:
            return False
        try:
            return path == "" or Path(path).resolve().is_relative_to(self.folder)
        except (OSError, RuntimeError):  # too long, or a circle of links
            return False

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = dict(scope["headers"]).get(b"content-length", b"")
        most = min(FILES_AT_ONCE * self.options.max_upload, self.options.upload_room)
        if not size.isdigit():
            await _refuse(send, 411, "An upload that does not say how large it is.")
        elif int(size) > most + MAX_TOLD:
            await _refuse(send, 413, f"{int(size) / 2**20:.0f} MiB at once. At most {most / 2**20:.0f} are taken.")
        elif int(size) + await asyncio.to_thread(self._held) > self.options.upload_room + MAX_TOLD:
            await _refuse(send, 507, "There is no room for more files at the moment. Try again later.")
        else:
            await self.app(scope, receive, send)

    def _held(self) -> int:
        """Bytes of the uploads that are kept; a small file counts as more, so that there are not too many of them."""
        total = 0
        for path in self.folder.rglob("*"):
            try:
                total += max(path.stat().st_size, LEAST_HELD) if path.is_file() else 0
            except OSError:  # deleted meanwhile
                continue
        return total


async def _body(receive: Receive) -> bytes | None:
    """The whole of a small request; None of a large one."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        pieces.append(message.get("body", b""))
        if sum(map(len, pieces)) > MAX_TOLD:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)


def _paths(body: bytes) -> Iterator[Any]:
    """Everything that is called a path, however deep; a body that is not JSON has none, and Gradio refuses it."""
    try:
        waiting = [json.loads(body)]
    except RecursionError:
        yield None
        return
    except ValueError:
        return
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "path" in found:
                yield found["path"]
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


async def _refuse(send: Send, status: int, text: str) -> None:
    # What is left of the body is not heard out.
    await _answer(send, status, text, [(b"connection", b"close")])


async def _answer(send: Send, status: int, text: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})
