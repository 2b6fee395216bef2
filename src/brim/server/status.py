"""Routes for those who look after the server: a page, health, readiness, version, load, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

import brim
from brim.batch_api.api import BatchApi
from brim.engines.loop import EngineLoop
from brim.server.lifecycle import Lifecycle
from brim.server.page import page
from brim.server.prometheus import Exposition
from brim.wire.errors import OpenAIRoute


class StatusRoutes:
    def __init__(
        self, loop: EngineLoop, lifecycle: Lifecycle, exposition: Exposition, batch_api: BatchApi | None
    ) -> None:
        self._loop = loop
        self._lifecycle = lifecycle
        self._exposition = exposition
        self._batch_api = batch_api

    def router(self) -> APIRouter:
        router = APIRouter(route_class=OpenAIRoute)
        for name in ("health", "ready", "version", "load", "metrics"):
            router.add_api_route(f"/{name}", getattr(self, name), methods=["GET"], response_model=None)
        router.add_api_route("/", page, methods=["GET"], include_in_schema=False)
        for name in ("health", "ready"):  # routes of their own: one with two methods is described twice
            handler = getattr(self, name)
            router.add_api_route(f"/{name}", handler, methods=["HEAD"], include_in_schema=False)
        return router

    async def health(self) -> Response:
        """200 while the engine lives and its steps return: otherwise restart the process."""
        return Response(status_code=200 if self._lifecycle.healthy else 503)

    async def ready(self) -> Response:
        """200 while new requests are taken: otherwise send them elsewhere."""
        return Response(status_code=200 if self._lifecycle.ready else 503)

    async def version(self) -> dict[str, Any]:
        """What answers here."""
        caps = self._loop.caps
        return {"version": brim.__version__, "engine": caps.name, "device": caps.device, "note": caps.note}

    async def load(self) -> dict[str, Any]:
        """Requests under way now; `server_load` is the name that vLLM's users know.

        `scheduler` holds what the policy knows of itself, `prefix_reuse` the share of prompt tokens found in
        the cache since the start, by class, None before the first; `batch_backlog` what is left of batch jobs
        and how long that will take, None while it is not known.
        """
        stats = self._loop.stats()
        return {
            "server_load": stats.num_running + stats.num_waiting,
            "num_running": stats.num_running,
            "num_waiting_online": stats.num_waiting_online,
            "num_waiting_offline": stats.num_waiting_offline,
            "kv_usage": stats.kv_usage,
            "prefix_reuse": {str(name): m.prefix_reuse for name, m in self._loop.metrics.by_class.items()},
            "scheduler": self._loop.figures(),
            "batch_backlog": self._backlog(),
        }

    def _backlog(self) -> dict[str, Any] | None:
        if self._batch_api is None:
            return None
        backlog = self._batch_api.backlog()
        least, most = backlog.completion or (None, None)
        return {"lines": backlog.lines, "least_seconds": least, "most_seconds": most}

    async def metrics(self) -> Response:
        """Prometheus metrics, in its text format."""
        return Response(await self._exposition.render(), media_type=self._exposition.content_type)
