"""A batch line in vLLM's server: what its route is given, what becomes of each way to answer or to fail."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from brim.batch_api.lines import BatchLine, HostStopped
from brim.core.errors import EngineDead
from brim.plugins.vllm import lines
from brim.plugins.vllm.engine import Engines
from brim.plugins.vllm.lines import LineRunner
from tests.unit.plugins.fake_vllm import MODEL, FakeEngine, make_app

NOW = 1_000.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_FIRST_WAIT_SECONDS", 0.0)


def line(**body: Any) -> BatchLine:
    whole = {"model": MODEL, "prompt": "a"} | body
    return BatchLine("batch_1", 3, "c", "/v1/completions", whole, expires_at=1_060, tenant="me")


def runner(engine: FakeEngine, now: float = NOW) -> LineRunner:
    app = make_app(engine, additional_config={"brim": {"server": {"data_folder": ""}}})
    made = LineRunner(app, lambda: Engines(engine), clock=lambda: now)
    app.user_middleware.clear()  # those of the plug-in have a runner of their own
    app.add_middleware(made.behind)
    app.middleware_stack = app.build_middleware_stack()
    return made


def test_a_line_is_an_offline_request_due_when_its_batch_expires() -> None:
    engine = FakeEngine()
    asked = line(service_tier="fast", vllm_xargs={"ttft_ms": 5, "task_class": "online"}, top_p=0.5)
    result = asyncio.run(runner(engine).submit(asked))
    facts = {"task_class": "offline", "deadline_ms": 60_000.0, "batch_id": "batch_1", "tenant": "me"}
    body = {"model": MODEL, "prompt": "a", "top_p": 0.5}
    assert engine.bodies == [body | {"vllm_xargs": {"ttft_ms": 5} | facts}]
    assert engine.headers[0]["x-request-id"] == result.request_id
    assert (result.status_code, result.body["id"], result.body["service_tier"]) == (200, "a", "flex")
    assert "vllm_xargs" in asked.body  # the line itself is as it was
    assert asked.body["vllm_xargs"]["task_class"] == "online"


@pytest.mark.parametrize(
    ("body", "message"), [({"max_tokens": -1}, "max_tokens"), ({"vllm_xargs": 1}, "vllm_xargs")]
)
def test_what_is_wrong_with_a_line_is_its_result(body: dict[str, Any], message: str) -> None:
    result = asyncio.run(runner(FakeEngine()).submit(line(**body)))
    assert result.status_code == 400
    assert message in result.body["error"]["message"]


def test_a_line_nested_deeper_than_can_be_passed_on_is_refused_at_once() -> None:
    engine = FakeEngine()
    result = asyncio.run(runner(engine).submit(line(metadata=orjson.loads(b"[" * 300 + b"]" * 300))))
    assert (result.status_code, result.body["error"]["code"]) == (400, "invalid_json")
    assert engine.bodies == []


def test_a_late_line_still_has_a_deadline() -> None:
    engine = FakeEngine()
    asyncio.run(runner(engine, now=2_000.0).submit(line()))
    assert engine.bodies[0]["vllm_xargs"]["deadline_ms"] > 0


def test_an_engine_that_was_dead_before_says_nothing_about_the_line() -> None:
    engine = FakeEngine()
    engine.errored = True
    with pytest.raises(HostStopped):
        asyncio.run(runner(engine).submit(line()))
    assert engine.bodies == []


class DyingEngine(FakeEngine):
    """Is dead once it has been asked so many times."""

    lives = 1
    errored = property(lambda self: len(self.bodies) >= self.lives, lambda self, value: None)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("lives", "aborts", "raised"), [(1, 0, EngineDead), (1, 1, EngineDead), (2, 1, HostStopped)]
)
def test_an_engine_that_dies_over_a_line_is_told_from_one_that_stops(
    lives: int, aborts: int, raised: type[EngineDead]
) -> None:
    """vLLM's client calls both dead; one that stops gives up first what it has."""
    engine = DyingEngine()
    engine.lives, engine.aborts = lives, aborts
    with pytest.raises(EngineDead) as failure:
        asyncio.run(runner(engine).submit(line()))
    assert failure.type is raised


@pytest.mark.parametrize("busy", [1, 2])
def test_a_line_that_was_turned_away_before_may_be_what_the_engine_dies_over(busy: int) -> None:
    engine = DyingEngine()
    engine.lives, engine.busy = busy + 1, busy
    with pytest.raises(EngineDead) as failure:
        asyncio.run(runner(engine).submit(line()))
    assert failure.type is EngineDead


@pytest.mark.parametrize(
    ("trouble", "raised"), [("busy", HostStopped), ("aborts", HostStopped), ("breaks", EngineDead)]
)
def test_an_engine_that_dies_between_two_tries_may_have_died_over_the_first(
    monkeypatch: pytest.MonkeyPatch, trouble: str, raised: type[EngineDead]
) -> None:
    monkeypatch.setattr(lines, "_FIRST_WAIT_SECONDS", 0.1)

    async def scene() -> None:
        engine = FakeEngine()
        setattr(engine, trouble, 2)
        engine.engine_core.fails = True
        task = asyncio.create_task(runner(engine).submit(line()))
        await asyncio.sleep(0.05)
        assert len(engine.bodies) == 1
        engine.errored = True
        with pytest.raises(EngineDead) as failure:
            await task
        assert failure.type is raised
        assert len(engine.bodies) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("trouble", ["busy", "aborts"])
def test_a_server_that_is_busy_or_gives_up_is_asked_again(trouble: str) -> None:
    engine = FakeEngine()
    setattr(engine, trouble, 5)
    result = asyncio.run(runner(engine).submit(line()))
    assert (result.status_code, result.body["choices"][0]["finish_reason"]) == (200, "stop")
    assert len(engine.bodies) == 6


def test_a_failure_in_a_server_that_is_well_is_the_lines_after_a_few_times() -> None:
    engine = FakeEngine()
    engine.breaks = 9
    result = asyncio.run(runner(engine).submit(line()))
    assert (result.status_code, result.body["error"]["type"]) == (500, "server_error")
    assert len(engine.bodies) == 3


def test_a_failure_in_a_server_that_is_going_down_is_not_the_lines() -> None:
    engine = FakeEngine()
    engine.breaks, engine.engine_core.fails = 9, True
    result = asyncio.run(runner(engine).submit(line()))
    assert (result.status_code, len(engine.bodies)) == (200, 10)


def test_a_line_that_is_cancelled_leaves_nothing_running() -> None:
    async def scene() -> None:
        engine = FakeEngine()
        engine.hold = asyncio.Event()
        task = asyncio.create_task(runner(engine).submit(line()))
        while not engine.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.running == 0

    asyncio.run(scene())
