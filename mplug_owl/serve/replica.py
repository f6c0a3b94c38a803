"""The server's application in an actor of Ray Serve, one of many alike.

It is the very application of one machine, spoken to in the same words (ASGI) without a socket between. Who may ask,
and which replica is asked, is decided in front of it, by `door.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mplug_owl.engine.options import EngineOptions
from mplug_owl.serve.account import SCOPE
from mplug_owl.serve.app import make_app
from mplug_owl.serve.catalogue import Catalogue, ModelSpec
from mplug_owl.serve.options import ServeOptions

log = logging.getLogger("mplug_owl.serve")


@dataclass(frozen=True)
class Opening:
    """How the models of a replica are opened."""

    specs: Sequence[ModelSpec]
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)


class Replica:
    def __init__(self, opening: Opening, options: ServeOptions, gpus: float) -> None:
        engine = opening.engine
        if engine.memory is None:
            engine = replace(engine, memory=fair_memory(opening.device, gpus, len(opening.specs)))
        self.catalogue = Catalogue.open(
            opening.specs, device=opening.device, dtype=opening.dtype, quantize=opening.quantize, engine=engine
        )
        self.app = make_app(self.catalogue, options)
        self._done: dict[int, int] = {}

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[MutableMapping[str, Any]]:
        """The messages of a reply, and last what the request came to; left early, the request is over."""
        replies: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        heard, gone = False, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal heard
            if not heard:
                heard = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def work() -> None:
            try:
                await self.app(scope, receive, replies.put)
            except Exception:  # the application has answered all the same
                log.exception("a request failed")
            finally:
                replies.put_nowait(None)

        working = asyncio.create_task(work())
        try:
            while (message := await replies.get()) is not None:
                yield message
            if SCOPE in scope:
                yield {"type": SCOPE, "account": scope[SCOPE]}
        finally:
            gone.set()
            if not working.done():
                working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def metrics(self) -> tuple[str, str]:
        """The replica's name, and its metrics in Prometheus' words."""
        from ray import serve

        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "query_string": b"", "state": {}}
        said = [message async for message in self.answer(scope, b"")]
        page = b"".join(message.get("body", b"") for message in said)
        return serve.get_replica_context().replica_id.unique_id, page.decode()

    def check_health(self) -> None:
        """Raises: RuntimeError where an engine takes nothing in any more, or has work and gets nowhere with it.

        Ray asks again and again, and replaces a replica that raised several times running.
        """
        if not self.catalogue.ready:
            raise RuntimeError("the engines are closed")
        for owl in self.catalogue.owls:
            engine, before = owl.engine, self._done.pop(id(owl), None)
            done = sum(engine.counts.values())
            if engine.running or engine.waiting:
                if done == before:
                    raise RuntimeError(f"{engine.running} answers run, and nothing was computed since the last look")
                self._done[id(owl)] = done


def fair_memory(device: str, gpus: float, models: int) -> int:
    """Bytes for one of the engines here: of the memory an engine would take alone, the part that the replica has of
    its machine's cores, or of a GPU.
    """
    import ray
    import torch

    from mplug_owl.engine.engine import MEMORY_SHARE
    from mplug_owl.engine.memory import available
    from mplug_owl.models import pick_device

    context = ray.get_runtime_context()
    where = torch.device(pick_device(device))
    part = gpus
    if where.type == "cpu":
        cores = next(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        part = context.get_assigned_resources().get("CPU", 1) / cores
    return int(min(1.0, part) * MEMORY_SHARE.get(where.type, 0.5) * available(where)) // max(1, models)
