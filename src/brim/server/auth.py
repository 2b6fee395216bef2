"""API keys: who may call, and on whose behalf."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from brim.wire.errors import ApiError


class ApiKeys:
    """Middleware: paths under `/v1`, and those of `also`, need one of `keys` as a Bearer token.

    Wherever the application is mounted, `/v1` anywhere in the path counts. OPTIONS passes: browsers ask
    without credentials. The tenant of a request is a digest of its key.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], also: Sequence[str] = ()) -> None:
        self._app = app
        self._tenants = {_digest(sent): _tenant(key) for key in keys for sent in _as_sent(key)}
        self._also = frozenset(also)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or not self._guards(scope["path"]):
            await self._app(scope, receive, send)
        elif (name := self._accepted(scope)) is None:
            await _REFUSAL.response()(scope, receive, send)
        else:
            scope.setdefault("state", {})["tenant"] = name
            await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return "v1" in path.split("/") or path in self._also

    def _accepted(self, scope: Scope) -> str | None:
        """The tenant of the key that was sent; None for any other."""
        scheme, _, token = _authorization(scope).partition(b" ")
        digest = _digest(token.lstrip(b" "))
        # Every key is compared, so the time taken does not tell which one came close.
        matches = [name for known, name in self._tenants.items() if secrets.compare_digest(digest, known)]
        return matches[0] if scheme.lower() == b"bearer" and matches else None


def tenant(request: Request) -> str:
    """A stable name of the key the request came with; empty where no key was asked for."""
    name: str = getattr(request.state, "tenant", "")
    return name


def _authorization(scope: Scope) -> bytes:
    """As it came: a header decoded as text is Latin-1, whatever the client wrote."""
    sent: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    return sent[0] if sent else b""


def _as_sent(key: str) -> list[bytes]:
    """The bytes that clients make of a key: most write UTF-8, some Latin-1."""
    with contextlib.suppress(UnicodeEncodeError):
        return [key.encode(), key.encode("latin-1")]
    return [key.encode()]


def _tenant(key: str) -> str:
    return _digest(key.encode()).hex()[:16]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


_REFUSAL = ApiError(
    401,
    "A valid API key is needed: send `Authorization: Bearer KEY`.",
    type="authentication_error",
    code="invalid_api_key",
    headers={"www-authenticate": "Bearer"},
)
