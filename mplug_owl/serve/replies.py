"""What goes back to a client: refusals in the shape that OpenAI's clients know, and JSON.

Every error of the server is a `Refusal` in the end. What was asked, and how answers come about, is not known here.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mplug_owl.engine.request import Busy
from mplug_owl.errors import OwlError
from mplug_owl.serve.catalogue import UnknownModel

BUSY_SECONDS = 2  # after which whoever was sent away may try again

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> "Json":
        return Json(self.body, self.status, self.headers)


class Json(Response):
    """JSON as people write it, not in escapes."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status, headers)

    def render(self, content: Any) -> bytes:
        return written(content)


def written(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", errors="replace")  # a client may have sent half a letter, which an error repeats


def refusal(error: Exception) -> Refusal:
    """Whatever went wrong, as what the client is told; an unforeseen fault tells nothing of our insides."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UnknownModel):
        return Refusal(404, str(error), param="model", code="model_not_found")
    if isinstance(error, Busy):
        return Refusal(503, str(error), code="busy", retry_after=BUSY_SECONDS)
    if isinstance(error, OwlError):
        return Refusal(400, str(error), param="messages")
    if isinstance(error, HTTPException):
        return _of_http(error)
    return Refusal(500, "the server met a fault of its own; its log says more", code="internal_error")


def stopping() -> Refusal:
    return Refusal(503, "the server is about to stop; try again", code="stopping", retry_after=BUSY_SECONDS)


def _of_http(error: HTTPException) -> Refusal:
    headers = dict(error.headers or {})
    said = {
        404: "no such address; /openapi.json lists those there are",
        405: f"the address does not take this method; expected {headers.get('Allow', 'another')}",
    }
    return Refusal(error.status_code, said.get(error.status_code, str(error.detail)), headers=headers)
