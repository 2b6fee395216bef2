"""For every /metrics: figures that fail or wait take no others away, and many who ask are one question."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.registry import Collector

log = logging.getLogger("brim")
ANSWER_SECONDS = 2.0  # a step, or a transaction of the batch store, may take long
QUIET_SECONDS = 60.0  # between two lines in the log about the same figures


class Parts:
    """Renders figures in parts, each for itself."""

    def __init__(self) -> None:
        self._quiet_until: dict[str, float] = {}  # about what is missing

    async def render(self, what: str, asked: Awaitable[Collector]) -> bytes:
        """Only that they are missing where they can't be had in time: the others matter most just then."""
        registry = CollectorRegistry()
        missing = Gauge(f"brim:{what}_figures_missing", "1: they can't be had", registry=registry)
        try:
            registry.register(await asyncio.wait_for(asked, ANSWER_SECONDS))
            return generate_latest(registry)
        except Exception as exc:
            self._tell(what, exc)
        registry = CollectorRegistry()
        registry.register(missing)
        missing.set(1)
        return generate_latest(registry)

    def _tell(self, what: str, exc: Exception) -> None:
        now = time.monotonic()
        if now >= self._quiet_until.get(what, now):
            self._quiet_until[what] = now + QUIET_SECONDS
            log.warning("the figures of the %s are missing from /metrics: %r", what, exc)


class Shared:
    """One answer for all who ask within `fresh_seconds`, and for all who ask while it is being made: a scrape
    needs no key, and would take the engine's time between two steps, or the batch store's."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, bytes]], fresh_seconds: float = 0.0) -> None:
        self._make = make
        self._fresh_seconds = fresh_seconds
        self._answer: asyncio.Task[bytes] | None = None
        self._asked_at = 0.0

    async def get(self) -> bytes:
        answer, now = self._answer, time.monotonic()
        stale = now >= self._asked_at + self._fresh_seconds
        if answer is None or answer.cancelled() or (stale and answer.done()):
            self._answer = answer = asyncio.create_task(self._make())
            self._asked_at = now
        return await asyncio.shield(answer)  # who leaves takes it from nobody
