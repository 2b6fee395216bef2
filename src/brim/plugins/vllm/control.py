"""Routes for those who look after the server: what Brim's scheduler does, and the switch back to vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        refused = {each: why for each, status in engines.items() if (why := _why_not(status))}
        if refused:
            foreign = not all(engines[each]["mode"] for each in refused)
            changed = [each for each in engines if each not in refused]
            code = "not_brims_scheduler" if foreign else "mode_refused"
            raise ApiError(409, _message(refused, changed), code=code)
        return {"engines": engines}


def _why_not(status: Mapping[str, str]) -> str | None:
    if not status["mode"]:
        return f"The scheduler is {status['scheduler']}: start vLLM with {_FLAG}."
    return status.get("refused")


def _message(refused: Mapping[str, str], changed: Sequence[str]) -> str:
    """Each engine schedules for itself, so those that can change don't wait for those that can't."""
    reasons = set(refused.values())
    if not changed and len(reasons) == 1:
        return reasons.pop()
    told = [f"Engine {each} did not change its mode: {why.rstrip('.')}." for each, why in refused.items()]
    return " ".join([*told, *(f"Engine {each} did." for each in changed)])
