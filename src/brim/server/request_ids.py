"""Every answer carries `X-Request-Id`: the client's own, or a new one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,128}")


class RequestIds:
    """Middleware that puts `request_id` into the request's state and into the answer's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = HTTPConnection(scope).headers.get(HEADER, "")
        request_id = sent if _ACCEPTABLE.fullmatch(sent) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id

        def send_with_id(message: Message) -> Awaitable[None]:  # not async: that costs on every chunk
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            return send(message)

        await self._app(scope, receive, send_with_id)
