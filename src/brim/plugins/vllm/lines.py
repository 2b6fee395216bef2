"""One line of a batch job, run by vLLM's own route inside its server.

The route is called as the innermost middleware would: below authentication and HTTP metrics, above vLLM's
error handling. So a line is checked, run and answered exactly like a request over HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Scope

from brim.batch_api.lines import BatchLine, HostStopped, LineResult, derived_id
from brim.core.errors import EngineDead
from brim.plugins.vllm.engine import Engines
from brim.wire.errors import ApiError

log = logging.getLogger("brim")

_BUSY = (429, 503)
_TRIES = 3
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_LEAVING_SECONDS = 5.0


class _Unanswered(Enum):
    """Why a try came to nothing that could be the line's result."""

    BUSY = auto()  # turned away: the engine has not seen it
    GIVEN_UP = auto()  # aborted by the engine


class LineRunner:
    """Runs lines in the offline class, due when their batch expires.

    `app` is the application whose routes answer; `behind` has to stand innermost among its middleware.
    `engines` gives the engines behind them. `clock` gives Unix seconds.
    """

    def __init__(
        self, app: ASGIApp, engines: Callable[[], Engines], clock: Callable[[], float] = time.time
    ) -> None:
        self._app = app
        self._engines = engines
        self._clock = clock
        self._routes: ASGIApp | None = None

    def behind(self, app: ASGIApp) -> ASGIApp:
        """A middleware that does nothing but learn what lies behind it."""
        self._routes = app
        return app

    async def submit(self, line: BatchLine) -> LineResult:
        """What is wrong with the line becomes its result. Raises EngineDead if the engine died while it
        may have run the line, HostStopped if it is dead for another reason.

        A line is tried again until the server takes it and carries it through: it may be full, paused, or on
        its way down. What fails in a server that is well is the line's own failure after a few times.
        """
        request_id = derived_id("req_", line.batch_id, line.line_number)
        wait_seconds, tries = _FIRST_WAIT_SECONDS, _TRIES
        before: LineResult | _Unanswered = _Unanswered.BUSY
        while True:
            if self._engines().dead:
                raise _lost(entered=isinstance(before, LineResult))
            result = await self._try(line, request_id)
            if isinstance(result, LineResult) and result.status_code < 500:
                return result
            if self._engines().dead:
                # vLLM stops its engine before its server, but then the engine first gives up what it has.
                raise _lost(entered=isinstance(result, LineResult) and before is not _Unanswered.GIVEN_UP)
            if isinstance(result, LineResult) and await self._engines().answer():
                tries -= 1
                if not tries:
                    return result
            before = result
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)

    async def _try(self, line: BatchLine, request_id: str) -> LineResult | _Unanswered:
        try:
            status, raw = await self._call(line.endpoint, self._body(line), request_id)
            body = orjson.loads(raw)
        except ApiError as exc:
            return LineResult(exc.status, request_id, exc.body())
        except Exception as exc:
            log.warning("vLLM failed over line %d of %s: %r", line.line_number, line.batch_id, exc)
            failure = ApiError(500, "The server failed while answering; see its log.", type="server_error")
            return LineResult(500, request_id, failure.body())
        if status in _BUSY:
            return _Unanswered.BUSY
        if _was_given_up(body):
            return _Unanswered.GIVEN_UP
        return LineResult(status, request_id, body | {"service_tier": "flex"} if status == 200 else body)

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
        try:
            return orjson.dumps(body | {"vllm_xargs": (own or {}) | facts})
        except orjson.JSONEncodeError:  # it writes JSON less deep than it reads
            raise ApiError(400, "The line's body is nested too deeply.", code="invalid_json") from None

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


def _lost(*, entered: bool) -> EngineDead:
    """What is known of an engine that is dead now, where a line had `entered` it or not."""
    if entered:
        return EngineDead("the engine died while it ran a batch line")
    return HostStopped("the engine was dead, or told to stop, before it ran a batch line")


def _was_given_up(body: Any) -> bool:
    """vLLM answers a request that it aborts with what it has so far, and status 200."""
    choices = body.get("choices") if isinstance(body, dict) else None
    return isinstance(choices, list) and any(choice.get("finish_reason") == "abort" for choice in choices)
