"""A server in this process, on a port of its own, and what its tests say to it."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import torch
from fastapi import FastAPI
from openai import OpenAI
from PIL import Image

from asking import endless
from mplug_owl import Owl
from mplug_owl.engine.options import EngineOptions
from mplug_owl.models.families import build_processor
from mplug_owl.serve.app import make_app
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.server import Server, bound, url
from mplug_owl.serve.service import Service

PATH = "/v1/chat/completions"
PATIENCE = 60.0  # seconds after which a test gives up; none waits so long


@dataclass
class Place:
    """A server that runs."""

    url: str
    app: FastAPI
    server: Server

    @property
    def service(self) -> Service:
        return self.app.state.service

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", **{"max_retries": 0, "timeout": PATIENCE, **options})

    def connection(self) -> HTTPConnection:
        return HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> "Reply":
        """One request by hand; a body that is no bytes goes as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        with closing(self.connection()) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            return Reply.of(connection.getresponse())


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, response: HTTPResponse) -> "Reply":
        return cls(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(app: FastAPI) -> Iterator[Place]:
    """Serve an application until the block ends."""
    listener = bound("127.0.0.1", 0)
    server = Server(app, replace(app.state.options, drain=PATIENCE))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="server")
    with listener:
        thread.start()
        until(lambda: server.started)
        try:
            yield Place(url(listener), app, server)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def served(owls: dict[str, Owl], engine: EngineOptions | None = None, **options: Any) -> Iterator[Place]:
    """Serve owls by name."""
    catalogue = Catalogue(owls)
    catalogue.start(engine)
    with serving(make_app(catalogue, ServeOptions(**options))) as place:
        yield place
    assert all(owl.engine.running == owl.engine.waiting == 0 for owl in owls.values())


def endless_owl(family: str = "tiny-owl2", seed: int = 0, context: int | None = None) -> Owl:
    """A random owl whose answers end only where they are cut, so that a test knows how long they are."""
    options = None if context is None else EngineOptions(context=context)
    return Owl(endless(family, torch.float32, seed), build_processor(family), options=options)


def until(true: Callable[[], object]) -> None:
    """Wait until something is so; it always comes to be, or the test fails."""
    late = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < late, "it did not come to be"
        time.sleep(0.002)


def data_url(media: Image.Image | bytes, kind: str = "image/png") -> str:
    if isinstance(media, Image.Image):
        buffer = io.BytesIO()
        media.save(buffer, "PNG")
        media = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(media).decode()}"


def shown(picture: Image.Image | str, question: str = "What is it?") -> list[dict[str, Any]]:
    """A question about a picture."""
    address = picture if isinstance(picture, str) else data_url(picture)
    picture_part = {"type": "image_url", "image_url": {"url": address}}
    return [{"role": "user", "content": [picture_part, {"type": "text", "text": question}]}]


def said(question: str = "What is an owl?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]
