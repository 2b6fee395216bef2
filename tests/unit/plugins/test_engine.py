"""The utilities inside an engine core, and the way to them."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from brim.core.errors import ConfigError, EngineDead
from brim.plugins.vllm.engine import Engines, install
from tests.unit.plugins.fake_vllm import FakeEngine


class Scheduler:
    brim_mode = "active"
    brim_left_to_vllm: tuple[str, ...] = ()

    def brim_switch(self, mode: str) -> str:
        if mode == "shadow":
            raise ConfigError("no shadow here")
        self.brim_mode = mode
        return mode

    def brim_figures(self) -> dict[str, float]:
        return {"free_blocks": 3.0}


class EngineCore:
    def __init__(self, scheduler: object) -> None:
        self.scheduler = scheduler


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> type[EngineCore]:
    module = ModuleType("vllm.v1.engine.core")
    core = type("EngineCore", (EngineCore,), {})
    module.EngineCore = core
    for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.core", module)
    install()
    return core


def test_a_core_answers_for_its_scheduler(installed: type[EngineCore]) -> None:
    core = installed(Scheduler())
    assert core.brim_status() == {"scheduler": "Scheduler", "mode": "active"}
    assert core.brim_switch("stock") == {"scheduler": "Scheduler", "mode": "stock"}
    assert core.scheduler.brim_mode == "stock"
    assert core.brim_switch("shadow") == {
        "scheduler": "Scheduler",
        "mode": "stock",
        "refused": "no shadow here",
    }
    assert core.brim_figures() == {"free_blocks": 3.0}


def test_a_core_says_what_is_left_to_vllm(installed: type[EngineCore]) -> None:
    scheduler = Scheduler()
    scheduler.brim_left_to_vllm = ("a KV connector", "a pooling model")
    assert installed(scheduler).brim_status()["left_to_vllm"] == "a KV connector; a pooling model"


def test_a_core_with_another_scheduler_has_no_mode(installed: type[EngineCore]) -> None:
    core = installed(SimpleNamespace())
    assert core.brim_switch("stock") == {"scheduler": "SimpleNamespace", "mode": ""}
    assert core.brim_figures() == {}


def test_brim_logs_where_vllm_does(installed: type[EngineCore]) -> None:
    other, brim = logging.getLogger("vllm"), logging.getLogger("brim")
    before = (other.handlers, brim.handlers, brim.level, brim.propagate)
    try:
        other.handlers = [logging.NullHandler()]
        install()
        assert brim.handlers == other.handlers
        assert not brim.propagate
    finally:
        other.handlers, brim.handlers, brim.level, brim.propagate = before


def test_every_engine_is_asked() -> None:
    client = FakeEngine()
    assert asyncio.run(Engines(client).switch("shadow")) == {
        number: {"scheduler": "AScheduler", "mode": "shadow"} for number in ("0", "1")
    }
    client.errored = True
    with pytest.raises(EngineDead):
        asyncio.run(Engines(client).figures())
