"""Contestants by name: `owlet` or a folder is an owl, `hf:NAME` a model of Transformers, `openai:URL#NAME` a server's.

How each answers is the business of its own file; nothing is opened here before it is asked for.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import EvalError
from mplug_owl.eval.endpoints import Endpoint

LIBRARY, SERVER = "hf:", "openai:"


@dataclass(frozen=True)
class Settings:
    """How a contestant is opened and asked; what does not concern its kind must be left out."""

    adapter: str | None = None
    device: str = "auto"
    dtype: str | None = None
    """float32 on a CPU and that of the files elsewhere, unless given."""
    batch_size: int | None = None
    """Conversations asked together."""
    concurrency: int = 8
    """Requests that a server has at once."""
    timeout: float = 120.0
    retries: int = 5
    key_from: str = "OPENAI_API_KEY"
    """The environment variable that holds a server's key."""
    request: str = "{}"
    """Further fields of each request to a server, as JSON."""


def short_name(model: str) -> str:
    """What a folder for its answers may be called."""
    rest = model.removeprefix(LIBRARY).removeprefix(SERVER)
    name = rest.partition("#")[2] or rest if model.startswith(SERVER) else rest
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in Path(name).name or "model")


def contestant(model: str, settings: Settings) -> Endpoint:
    """Open the model that a name stands for.

    Raises:
        OwlError: there is none, or a setting does not concern its kind.
    """
    if model.startswith(SERVER):
        return _server(model.removeprefix(SERVER), settings)
    from mplug_owl.models import pick_device

    device = pick_device(settings.device)
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # each worker of torchrun has a GPU of its own
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    dtype = settings.dtype or ("float32" if device == "cpu" else "auto")
    if model.startswith(LIBRARY):
        if settings.adapter:
            raise EvalError(f"--adapter {settings.adapter} on {model}; only owls take adapters: merge it first")
        from mplug_owl.eval.transformers_endpoint import TransformersEndpoint

        name = model.removeprefix(LIBRARY)
        return TransformersEndpoint.open(name, device=device, dtype=dtype, batch_size=settings.batch_size or 8)
    import mplug_owl
    from mplug_owl.eval.endpoints import OwlEndpoint

    owl = mplug_owl.load(model, adapter=settings.adapter, device=device, dtype=dtype)
    name = " + ".join(filter(None, (model, settings.adapter)))
    return OwlEndpoint(owl, name, settings.batch_size or 64)


def _server(address: str, settings: Settings) -> Endpoint:
    from mplug_owl.eval.openai_endpoint import OpenAIEndpoint

    for name in ("adapter", "dtype", "batch_size"):
        if getattr(settings, name) is not None:
            flag = name.replace("_", "-")
            raise EvalError(f"--{flag} for {SERVER}{address}; the server decides that: leave it out")
    url, _, name = address.partition("#")
    try:
        request: Any = json.loads(settings.request)
    except ValueError as error:
        raise EvalError(f"--request {settings.request!r} is no JSON ({error})") from None
    if not isinstance(request, dict):
        raise EvalError(f'--request {settings.request!r}; expected an object such as {{"seed": 1}}')
    return OpenAIEndpoint(
        url,
        name,
        os.environ.get(settings.key_from),
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        request=request,
    )
