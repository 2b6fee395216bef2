"""A batch line in vLLM's server: what its route is given, what becomes of each way to answer or to fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from brim.batch_api.lines import BatchLine
from brim.core.errors import EngineDead
from brim.plugins.vllm import lines
from brim.plugins.vllm.lines import LineRunner
from tests.unit.plugins.fake_vllm import MODEL, FakeEngine, make_app

NOW = 1_000.0


def line(**body: Any) -> BatchLine:
    whole = {"model": MODEL, "prompt": "a"} | body
    return BatchLine("batch_1", 3, "c", "/v1/completions", whole, expires_at=1_060, tenant="me")


def runner(engine: FakeEngine, now: float = NOW) -> LineRunner:
    app = make_app(engine, additional_config={"brim": {"server": {"data_folder": ""}}})
    made = LineRunner(app, lambda: engine.errored, clock=lambda: now)
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


def test_a_late_line_still_has_a_deadline() -> None:
    engine = FakeEngine()
    asyncio.run(runner(engine, now=2_000.0).submit(line()))
    assert engine.bodies[0]["vllm_xargs"]["deadline_ms"] > 0


def test_an_engine_that_died_says_nothing_about_the_line() -> None:
    engine = FakeEngine()
    made = runner(engine)
    engine.errored = True
    with pytest.raises(EngineDead):
        asyncio.run(made.submit(line()))


def test_an_answer_that_was_cut_off_is_none() -> None:
    engine = FakeEngine()
    engine.aborts = True
    with pytest.raises(EngineDead, match="gave up"):
        asyncio.run(runner(engine).submit(line()))


def test_a_route_that_fails_is_the_lines_error() -> None:
    made = runner(FakeEngine())

    async def fails(*_: Any) -> None:
        raise OSError("a wire broke")

    made.behind(fails)
    result = asyncio.run(made.submit(line()))
    assert (result.status_code, result.body["error"]["type"]) == (500, "server_error")


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_FIRST_WAIT_SECONDS", 0.001)
    engine = FakeEngine()
    engine.busy = 3
    result = asyncio.run(runner(engine).submit(line()))
    assert (result.status_code, len(engine.bodies)) == (200, 4)


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
