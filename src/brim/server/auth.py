"""API keys: who may call, and on whose behalf."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from brim.wire.errors import ApiError


class ApiKeys:
    """Middleware: paths under `/v1`, and those of `also`, need one of `keys` as a Bearer token.

    Wherever the application is mounted, `/v1` anywhere in the path counts. OPTIONS passes: browsers ask
    without credentials. The tenant of a request is a digest of its key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], also: Sequence[str] = ()) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]
        self._also = frozenset(also)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or not self._guards(scope["path"]):
            await self._app(scope, receive, send)
        elif (digest := self._accepted(HTTPConnection(scope))) is None:
            await _REFUSAL.response()(scope, receive, send)
        else:
            scope.setdefault("state", {})["tenant"] = digest.hex()[:16]
            await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return "v1" in path.split("/") or path in self._also

    def _accepted(self, connection: HTTPConnection) -> bytes | None:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        digest = _digest(token)
        # Every key is compared, so the time taken does not tell which one came close.
        matches = [secrets.compare_digest(digest, known) for known in self._digests]
        return digest if scheme.lower() == "bearer" and any(matches) else None


def tenant(request: Request) -> str:
    """A stable name of the key the request came with; empty where no key was asked for."""
    name: str = getattr(request.state, "tenant", "")
    return name


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


_REFUSAL = ApiError(
    401,
    "A valid API key is needed: send `Authorization: Bearer KEY`.",
    type="authentication_error",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)
