"""The bytes of a file to a client, which has to take them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("brim")


class Download(FileResponse):
    """A reader that takes nothing for `write_timeout_seconds` is dropped: it holds a file open."""

    def __init__(self, *args: Any, write_timeout_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write_timeout_seconds = write_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._write_timeout_seconds):
                    await send(message)
            except TimeoutError as exc:
                raise _NotTaken from exc

        try:
            await super().__call__(scope, receive, send_in_time)
        except _NotTaken:  # whoever serves us closes the connection of an answer that is not complete
            log.info("a reader took nothing for %g s: its download is dropped", self._write_timeout_seconds)


class _NotTaken(Exception):
    """Not a TimeoutError: a disk has those too."""
