"""The process that serves: it listens, says when it is ready, and stops in peace.

Told to stop (SIGTERM, Ctrl-C) it takes no more requests, lets those that run end, and gives up after a while; told
twice, at once. What is served is not known here.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from mplug_owl.errors import ConfigError
from mplug_owl.serve.connection import Connection
from mplug_owl.serve.intake import protect
from mplug_owl.serve.options import ServeOptions

BACKLOG = 2048
KEEP_ALIVE = 75  # seconds that an idle connection is kept: longer than balancers keep theirs
CLOSING = 6  # seconds in which connections must take what is left for them, once nothing is computed any more
GLANCE = 0.05


class Served(Protocol):
    """What an application says of the requests under way, as `app.state.service`."""

    stopping: bool
    """Set when no more requests are to be taken."""

    @property
    def busy(self) -> bool:
        """Whether anything is being answered."""

    def give_up(self) -> None:
        """End what is being answered."""


def bound(host: str, port: int) -> socket.socket:
    """A socket with an address of its own, on which nobody listens yet.

    Raises: ConfigError where the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port} ({error.strerror}); choose another --host or --port (0: any that is free)"
        ) from None
    return made


def url(listener: socket.socket) -> str:
    """The address of a socket, as a browser takes it."""
    host, port = listener.getsockname()[:2]
    here = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{here}:{port}"


def run(
    app: FastAPI,
    options: ServeOptions,
    *,
    listener: socket.socket | None = None,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve an application of `make_app` until told to stop.

    `announce` is called with the address as soon as requests are answered.
    """
    protect(app, options)
    listener = listener or bound(options.host, options.port)
    server = Server(app, options, announce)
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        listener.close()


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, options: ServeOptions, announce: Callable[[str], object] | None = None) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=CLOSING,
        )
        super().__init__(config)
        self.options, self.announce = options, announce
        self.service: Served = app.state.service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.announce is not None and sockets:
            self.announce(url(sockets[0]))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, but who was told to stop, and did, has not failed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.stopping = True
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        late = loop.time() + self.options.drain
        while self.service.busy and loop.time() < late and not self.force_exit:
            await asyncio.sleep(GLANCE)
        self.service.give_up()
        await super().shutdown(sockets)
