"""Ready or draining: whether the server takes requests, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from brim.batch_api.api import BatchApi
from brim.core.errors import EngineDead
from brim.engines.loop import EngineLoop
from brim.server.options import ServerOptions
from brim.wire.errors import draining

log = logging.getLogger("brim")


class Lifecycle:
    """Starts and drains one application. Whoever made the engine loop starts and closes it."""

    def __init__(self, loop: EngineLoop, batch_api: BatchApi | None, options: ServerOptions) -> None:
        self._loop = loop
        self._batch_api = batch_api
        self._shutdown_timeout_seconds = options.shutdown_timeout_seconds
        self._stuck_step_seconds = options.stuck_step_seconds
        self._started = False
        self._draining: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Timeout] = set()

    @property
    def healthy(self) -> bool:
        """Whether the engine lives and its steps return."""
        return self._loop.alive and self._loop.step_seconds <= self._stuck_step_seconds

    @property
    def ready(self) -> bool:
        """Whether new requests are taken."""
        return self._started and self._draining is None and self.healthy

    async def require_open(self) -> None:
        """Raises ApiError 503 once the server drains."""
        if self._draining is not None:
            raise draining()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Around the reading of a body, which may never end. Raises ApiError 503 once the server drains."""
        await self.require_open()
        try:
            async with asyncio.timeout(None) as body:
                self._reading.add(body)
                try:
                    yield
                finally:
                    self._reading.discard(body)
        except TimeoutError:
            raise draining() from None

    async def start(self) -> None:
        """Takes batch jobs up again; from now on the server is ready."""
        if self._batch_api is not None:
            await self._batch_api.start()
        self._started = True

    async def drain(self) -> None:
        """Takes nothing new, puts batch lines back and lets answers finish, up to the timeout. Idempotent."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        log.info("draining: answers under way have %g s", self._shutdown_timeout_seconds)
        self._loop.take_no_more()
        for body in self._reading:
            body.reschedule(0)  # now
        stopping = asyncio.create_task(self._stop_batches())
        drained = await self._loop.drain(self._shutdown_timeout_seconds)
        if not drained:
            log.warning("what was still under way is broken off")
        if not drained or not stopping.done():  # only at its end it is known whether it has left batch lines
            with contextlib.suppress(EngineDead):  # it hangs: who closes it at the end is told the same
                await asyncio.to_thread(self._loop.close)
        await stopping

    async def _stop_batches(self) -> None:
        if self._batch_api is not None:
            await self._batch_api.stop(self._loop.hangs)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Starts with the application and drains with it, unless it is drained already."""
        await self.start()
        try:
            yield
        finally:
            await self.drain()
