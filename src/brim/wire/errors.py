"""The OpenAI error object, and the route class that turns every failure into one.

The error travels with the route, not with the application, so a router mounted into another
host's application (`batch_api` in vLLM's server) answers in the same shape there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from brim.core.errors import BrimError, RequestRefused

log = logging.getLogger("brim")

RETRY_AFTER_SECONDS = 5


class ApiError(BrimError):
    """An answer that is an error: HTTP status plus the four keys of OpenAI's error object.

    `headers` are added to the response (Retry-After, x-should-retry).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`, all four keys always present."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def unsupported(field: str) -> ApiError:
    """400: a field that asks for what is not done here."""
    message = f"`{field}` is not supported here: leave it out."
    return ApiError(400, message, param=field, code="unsupported_parameter")


def unavailable(message: str, *, code: str) -> ApiError:
    """503: the server can't take this now, whoever asks."""
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    return ApiError(503, message, type="service_unavailable_error", code=code, headers=headers)


def draining() -> ApiError:
    """503: the server is on its way down."""
    return unavailable("The server is shutting down: try again in a moment.", code="server_is_draining")


def as_api_error(exc: Exception) -> ApiError:
    """Any exception as the error the client should see; unknown ones become a 500 that tells nothing."""
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, RequestRefused):
        return ApiError(400, str(exc), param=exc.param, code=exc.code)
    if isinstance(exc, RequestValidationError):
        return _validation_error(exc)
    if isinstance(exc, HTTPException):
        return _http_error(exc)
    log.exception("unexpected error while answering a request", exc_info=exc)
    return ApiError(500, "The server failed while answering; see its log.", type="server_error")


def _validation_error(exc: RequestValidationError) -> ApiError:
    first = exc.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    if first["type"] == "extra_forbidden":
        return unsupported(where)
    message = f"{where}: {first['msg']}" if where else first["msg"]
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, message, param=where or None, code=code)


def _http_error(exc: HTTPException) -> ApiError:
    kind = "invalid_request_error" if exc.status_code < 500 else "server_error"
    return ApiError(exc.status_code, str(exc.detail), type=kind, headers=exc.headers)


class OpenAIRoute(APIRoute):
    """A route whose every failure is an OpenAI error object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as exc:
                return as_api_error(exc).response()

        return handled
