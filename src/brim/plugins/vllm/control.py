"""Routes for those who look after the server: what Brim's scheduler does, and the switch back to vLLM's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

import brim
from brim.core.errors import EngineDead
from brim.plugins.vllm.engine import Engines, Mode
from brim.server.failures import told
from brim.wire.errors import ApiError, OpenAIRoute

PATHS = ("/brim", "/brim/mode")
_FLAG = "--scheduler-cls brim.plugins.vllm.BrimScheduler"


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Mode


class ControlRoutes:
    """`engines` are those of the server that is running; `data_folder` is where batch jobs are kept."""

    def __init__(self, engines: Callable[[], Engines], data_folder: str | None) -> None:
        self._engines = engines
        self._data_folder = data_folder

    def router(self) -> APIRouter:
        router = APIRouter(route_class=OpenAIRoute)
        router.add_api_route("/brim", self.status, methods=["GET"], response_model=None)
        router.add_api_route("/brim/mode", self.switch, methods=["POST"], response_model=None)
        return router

    async def status(self) -> dict[str, Any]:
        """The mode that is in force and the figures, of each engine's scheduler."""
        try:
            engines = await self._engines().status()
            figures = await self._engines().figures()
        except EngineDead as exc:
            raise told(exc) from exc
        return {
            "version": brim.__version__,
            "data_folder": self._data_folder,
            "engines": {each: {**status, "figures": figures[each]} for each, status in engines.items()},
        }

    async def switch(self, asked: Switch) -> dict[str, Any]:
        """Puts the scheduler of every engine in that mode, from its next step on."""
        try:
            engines = await self._engines().switch(asked.mode)
        except EngineDead as exc:
            raise told(exc) from exc
        for status in engines.values():
            if not status["mode"]:
                message = f"The scheduler is {status['scheduler']}: start vLLM with {_FLAG}."
                raise ApiError(409, message, code="not_brims_scheduler")
            if "refused" in status:
                raise ApiError(409, status["refused"], code="mode_refused")
        return {"engines": engines}
