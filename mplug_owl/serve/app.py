"""The application: addresses and what answers them.

It puts the parts together; what a request means is read in `schema.py`, and answered in `completion.py`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

import mplug_owl
from mplug_owl.errors import OwlError
from mplug_owl.serve.account import account_of
from mplug_owl.serve.catalogue import Catalogue
from mplug_owl.serve.completion import Completion
from mplug_owl.serve.forms import ModelCard
from mplug_owl.serve.limits import allowed_models, check_model
from mplug_owl.serve.options import ServeOptions
from mplug_owl.serve.reference import describe, page
from mplug_owl.serve.replies import Json, Refusal, refusal, stopping
from mplug_owl.serve.schema import read
from mplug_owl.serve.service import Service

COMPLETIONS = "/v1/chat/completions"
GONE = 499  # nobody is there to read it


def make_app(catalogue: Catalogue, options: ServeOptions | None = None) -> FastAPI:
    """The application of a server; `app.state` has its `catalogue`, its `options` and its `service`."""
    options = options or ServeOptions()
    service = Service(catalogue, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="owl serve",
        version=mplug_owl.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={error: answer_error for error in (Refusal, OwlError, HTTPException, Exception)},
    )
    app.state.catalogue, app.state.options, app.state.service = catalogue, options, service
    add_completions(app, service)
    add_models(app, catalogue)
    add_inspection(app, service)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


async def answer_error(request: Request, error: Exception) -> Response:
    return refusal(error).response()


def add_completions(app: FastAPI, service: Service) -> None:
    @app.post(COMPLETIONS)
    async def complete(request: Request) -> Response:
        """Answer a conversation of texts, images and videos, at once or as a stream."""
        account = account_of(request.scope)
        try:
            # Not kept by the request, for its pictures are large and answers take long.
            wish = read(b"".join([piece async for piece in request.stream()]), service.options)
            check_model(request.scope, service.catalogue.name(wish.model))
            return Completion(service, service.desk(wish.model), wish, account)
        except ClientDisconnect:
            account.outcome = "disconnected"
            service.settle(account)
            return Response(status_code=GONE)
        except (Refusal, OwlError) as error:
            service.settle(account, error)
            raise


def add_models(app: FastAPI, catalogue: Catalogue) -> None:
    def card(name: str) -> ModelCard:
        return {"id": name, "object": "model", "created": catalogue.created, "owned_by": "mplug_owl"}

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The models of this server; the first is the one that requests without a model mean."""
        names = allowed_models(request.scope, catalogue.names)
        return Json({"object": "list", "data": [card(name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        """One of them."""
        name = catalogue.name(name)
        check_model(request.scope, name)
        return Json(card(name))


def add_inspection(app: FastAPI, service: Service) -> None:
    """What machines ask of a server, and the description of the API."""

    @app.get("/health")
    async def health() -> Response:
        """Whether the server lives."""
        return Json({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """Whether it takes requests: 503 from the word to stop on."""
        if service.stopping or not service.catalogue.ready:
            raise stopping()
        return Json({"status": "ready", "models": service.catalogue.names})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts and times in the form Prometheus reads."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/docs")
    async def docs() -> Response:
        """This description, to be read by people."""
        return HTMLResponse(page(app.openapi()))
