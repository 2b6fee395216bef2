"""One line of a batch job, run by vLLM's own route inside its server.

The route is called as the innermost middleware would: below authentication and HTTP metrics, above vLLM's
error handling. So a line is checked, run and answered exactly like a request over HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Scope

from brim.batch_api.lines import BatchLine, LineResult, derived_id
from brim.core.errors import EngineDead
from brim.wire.errors import ApiError, as_api_error

_BUSY = (429, 503)
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_LEAVING_SECONDS = 5.0


class LineRunner:
    """Runs lines in the offline class, due when their batch expires.

    `app` is the application whose routes answer; `behind` has to stand innermost among its middleware.
    `engine_dead` tells whether its engine has stopped. `clock` gives Unix seconds.
    """

    def __init__(
        self, app: ASGIApp, engine_dead: Callable[[], bool], clock: Callable[[], float] = time.time
    ) -> None:
        self._app = app
        self._engine_dead = engine_dead
        self._clock = clock
        self._routes: ASGIApp | None = None

    def behind(self, app: ASGIApp) -> ASGIApp:
        """A middleware that does nothing but learn what lies behind it."""
        self._routes = app
        return app

    async def submit(self, line: BatchLine) -> LineResult:
        """What is wrong with the line becomes its result.

        Raises EngineDead, which says nothing about the line: the engine stopped, or gave the request up. A
        server that is too busy is asked again.
        """
        request_id = derived_id("req_", line.batch_id, line.line_number)
        wait_seconds = _FIRST_WAIT_SECONDS
        while True:
            result = await self._run(line, request_id)
            if result.status_code not in _BUSY:
                return result
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)

    async def _run(self, line: BatchLine, request_id: str) -> LineResult:
        try:
            status, raw = await self._call(line.endpoint, self._body(line), request_id)
            body = orjson.loads(raw)
        except Exception as exc:
            self._raise_if_dead(exc)
            error = as_api_error(exc)
            return LineResult(error.status, request_id, error.body())
        if status >= 500 or _was_given_up(body):
            self._raise_if_dead(None)
        if _was_given_up(body):
            raise EngineDead("vLLM gave up a batch line that it was running")
        return LineResult(status, request_id, body | {"service_tier": "flex"} if status == 200 else body)

    def _raise_if_dead(self, cause: Exception | None) -> None:
        if self._engine_dead():
            raise EngineDead("the engine died while it ran a batch line") from cause

    def _body(self, line: BatchLine) -> bytes:
        """Raises ApiError 400."""
        own = line.body.get("vllm_xargs")
        if not isinstance(own, dict | None):
            raise ApiError(400, "vllm_xargs must be an object.", param="vllm_xargs", code="invalid_value")
        facts = {
            "task_class": "offline",
            "deadline_ms": max(1.0, (line.expires_at - self._clock()) * 1e3),
            "batch_id": line.batch_id,
        }
        if line.tenant:
            facts["tenant"] = line.tenant
        body = {name: value for name, value in line.body.items() if name != "service_tier"}
        return orjson.dumps(body | {"vllm_xargs": (own or {}) | facts})

    async def _call(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        """Status and body of the route's answer. Cancelled, it tells the route that its client has left."""
        assert self._routes is not None, "the application has not started"
        exchange = _Exchange(self._routes, _scope(self._app, path, body, request_id), body)
        answering = asyncio.create_task(exchange.run())
        try:
            await asyncio.shield(answering)
        except asyncio.CancelledError:
            exchange.left.set()  # a route that is cancelled itself would leave its request running
            await asyncio.wait([answering], timeout=_LEAVING_SECONDS)
            answering.cancel()
            raise
        return exchange.status, b"".join(exchange.parts)


class _Exchange:
    """One request and its answer, as ASGI messages."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._app = app
        self._scope = scope
        self.left = asyncio.Event()
        self.status = 0
        self.parts: list[bytes] = []
        self._body: bytes | None = body

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is None:
            await self.left.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))


def _scope(app: ASGIApp, path: str, body: bytes, request_id: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
        ],
        "client": None,
        "server": None,
        "state": {},
        "app": app,
    }


def _was_given_up(body: Any) -> bool:
    """vLLM answers a request that it aborts with what it has so far, and status 200."""
    choices = body.get("choices") if isinstance(body, dict) else None
    return isinstance(choices, list) and any(choice.get("finish_reason") == "abort" for choice in choices)
