"""What a client is told when something fails while it is being answered."""

from __future__ import annotations

from brim.core.errors import EngineDead, RequestRefused
from brim.wire.errors import RETRY_AFTER_SECONDS, ApiError, as_api_error, draining, unavailable


class ShutDown(EngineDead):
    """The answer was broken off because the server stops; its engine is well."""


def told(exc: Exception) -> ApiError:
    """`exc` as the error the client sees: of a dead engine all are told the same; the log has the cause."""
    if isinstance(exc, ShutDown):
        return draining()
    if isinstance(exc, EngineDead):
        return unavailable("The engine has failed: try again once it is restarted.", code="engine_dead")
    return as_api_error(exc)


def refused(message: str, param: str) -> RequestRefused:
    """400: a value in that field which is well-formed and yet impossible here."""
    return RequestRefused(message, param=param, code="invalid_value")


def no_room(message: str) -> ApiError:
    """429 as OpenAI answers a flex request that found no room."""
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    return ApiError(429, message, type="rate_limit_error", code="resource_unavailable", headers=headers)
