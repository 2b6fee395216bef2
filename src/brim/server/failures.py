"""What a client is told when something fails while it is being answered."""

from __future__ import annotations

from brim.core.errors import EngineDead, RequestRefused
from brim.wire.errors import ApiError, as_api_error

RETRY_AFTER_SECONDS = 5


def told(exc: Exception) -> ApiError:
    """`exc` as the error the client sees. An engine that stopped is our fault and worth a retry."""
    if isinstance(exc, EngineDead):
        return unavailable(str(exc), code="engine_dead")
    return as_api_error(exc)


def refused(message: str, param: str) -> RequestRefused:
    """400: a value in that field which is well-formed and yet impossible here."""
    return RequestRefused(message, param=param, code="invalid_value")


def unavailable(message: str, *, code: str) -> ApiError:
    """503: the server can't take this now, whoever asks."""
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    return ApiError(503, message, type="service_unavailable_error", code=code, headers=headers)


def no_room(message: str) -> ApiError:
    """429 as OpenAI answers a flex request that found no room."""
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
    return ApiError(429, message, type="rate_limit_error", code="resource_unavailable", headers=headers)
