"""From vLLM's API server to the scheduler inside its engine cores, and back.

An engine core runs any of its methods for the API server as a "utility"; `install` gives it ours.
Every private name of vLLM that the HTTP side touches stands in this file.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal, Protocol

from brim.core.errors import ConfigError, EngineDead

Mode = Literal["stock", "shadow", "active"]
ANSWER_SECONDS = 2.0  # a step may take long


class EngineClient(Protocol):
    """Of vLLM's `EngineClient`, what is used here."""

    @property
    def errored(self) -> bool: ...


def install() -> None:
    """The entry point in the group `vllm.general_plugins`: runs in each of vLLM's processes."""
    from vllm.v1.engine.core import EngineCore

    log_beside_vllm()
    EngineCore.brim_status = _status
    EngineCore.brim_switch = _switch
    EngineCore.brim_figures = _figures
    EngineCore.brim_samples = _samples


def log_beside_vllm() -> None:
    """What Brim logs goes where vLLM's own lines go, once these are set up; else it would be lost."""
    log, other = logging.getLogger("brim"), logging.getLogger("vllm")
    if other.handlers:
        log.handlers, log.propagate = other.handlers, False
        log.setLevel(other.level)


def _status(core: Any) -> dict[str, str]:
    """The scheduler's class, the mode in force, which is empty where the scheduler is not Brim's, and what
    Brim can't do there."""
    scheduler = core.scheduler
    left = "; ".join(getattr(scheduler, "brim_left_to_vllm", ()))
    status = {"scheduler": type(scheduler).__name__, "mode": getattr(scheduler, "brim_mode", "")}
    return status | ({"left_to_vllm": left} if left else {})


def _switch(core: Any, mode: str) -> dict[str, str]:
    """The same with the mode that is in force from the next step on, or why it can't be."""
    if not hasattr(core.scheduler, "brim_switch"):
        return _status(core)
    try:
        return _status(core) | {"mode": core.scheduler.brim_switch(mode)}
    except ConfigError as exc:
        return _status(core) | {"refused": str(exc)}


def _figures(core: Any) -> dict[str, float]:
    return core.scheduler.brim_figures() if hasattr(core.scheduler, "brim_figures") else {}


def _samples(core: Any) -> dict[str, float]:
    return core.scheduler.brim_samples() if hasattr(core.scheduler, "brim_samples") else {}


class Engines:
    """The engine cores that one API server manages. Each call answers by the core's number, as vLLM's
    metrics do, and raises EngineDead once they are gone."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    @property
    def dead(self) -> bool:
        return self._client.errored

    async def answer(self) -> bool:
        """Whether they take requests: an engine core that is being stopped still runs what it has."""
        try:
            await asyncio.wait_for(self.status(), ANSWER_SECONDS)
        except Exception:
            return False
        return True

    async def status(self) -> dict[str, dict[str, str]]:
        return await self._all("brim_status")

    async def switch(self, mode: Mode) -> dict[str, dict[str, str]]:
        """Puts every scheduler in that mode, and tells their status then, or why it is `refused`."""
        return await self._all("brim_switch", mode)

    async def figures(self) -> dict[str, dict[str, float]]:
        return await self._all("brim_figures")

    async def samples(self) -> dict[str, dict[str, float]]:
        return await self._all("brim_samples")

    async def _all(self, method: str, *args: str) -> dict[str, Any]:
        core = self._client.engine_core  # type: ignore[attr-defined]  # no public way leads there
        if self.dead:
            raise EngineDead("vLLM's engine has stopped; restart the server.")
        answers = await asyncio.gather(
            *(core._call_utility_async(method, *args, engine=each) for each in core.core_engines)
        )
        return dict(zip(map(str, core.engine_ranks_managed), answers, strict=True))


def registry() -> Any:
    """The Prometheus registry that vLLM's own /metrics shows."""
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    return get_prometheus_registry()
