"""Batch lines go the way of any request, in the offline class."""

import asyncio
import time

import orjson
import pytest

from brim.batch_api.lines import BatchLine, HostStopped, LineResult
from brim.core.errors import EngineDead
from brim.core.request import TaskClass
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.lines import submit_line
from brim.server.service import OpenAIService
from tests.server.http_harness import HELLO, MODEL, new_loop

CHAT = {"model": MODEL, "messages": HELLO, "max_tokens": 3}


def _line(body: dict, endpoint: str = "/v1/chat/completions", seconds: int = 3600) -> BatchLine:
    return BatchLine("batch_1", 7, "mine", endpoint, body, int(time.time()) + seconds)


def _submit(line: BatchLine, engine: ScriptedEngine | None = None):
    loop = new_loop(engine or ScriptedEngine())
    loop.start()
    try:
        result = asyncio.run(submit_line(OpenAIService(loop, ByteTokenizer()), line))
        return result, loop
    finally:
        loop.close()


def test_a_line_runs_offline_with_its_deadline() -> None:
    result, loop = _submit(_line(CHAT))
    assert result.status_code == 200
    assert result.body["usage"]["completion_tokens"] == 3
    assert result.body["object"] == "chat.completion"
    request = loop.requests[0]
    assert request.task_class is TaskClass.OFFLINE
    assert 3598e9 < request.deadline_ns - request.arrival_ns <= 3600e9


def test_completions_lines() -> None:
    result, _ = _submit(_line({"model": MODEL, "prompt": "x"}, "/v1/completions"))
    assert result.body["object"] == "text_completion"


@pytest.mark.parametrize("depth", [300, 1_000])
def test_a_deeply_nested_line_is_a_result_too(depth: int) -> None:
    deep = orjson.loads(b"[" * depth + b"]" * depth)
    result, _ = _submit(_line({**CHAT, "metadata": {"x": deep}, "surprise": deep}))
    assert result.status_code in (200, 400)
    result, _ = _submit(_line({**CHAT, "messages": [{"role": "user", "content": deep}]}))
    assert result.status_code == 400


@pytest.mark.parametrize(
    ("body", "endpoint", "status", "param"),
    [
        ({**CHAT, "model": "other"}, "/v1/chat/completions", 404, "model"),
        ({**CHAT, "temperature": 9}, "/v1/chat/completions", 400, "temperature"),
        ({**CHAT, "stream": True}, "/v1/chat/completions", 400, "stream"),
        ({**CHAT, "max_tokens": 10_000}, "/v1/chat/completions", 400, "max_tokens"),
        (CHAT, "/v1/embeddings", 400, "url"),
    ],
)
def test_bad_lines_become_results(body: dict, endpoint: str, status: int, param: str) -> None:
    result, loop = _submit(_line(body, endpoint))
    assert isinstance(result, LineResult)
    assert (result.status_code, result.body["error"]["param"]) == (status, param)
    assert loop.requests == []


def test_a_dead_engine_says_nothing_about_the_line() -> None:
    class Dying(ScriptedEngine):
        def finish(self):
            raise EngineDead("the device is gone")

    with pytest.raises(EngineDead) as failure:
        _submit(_line(CHAT), Dying())
    assert failure.type is EngineDead


class Slow(ScriptedEngine):
    def finish(self):
        time.sleep(0.05)
        return super().finish()


@pytest.mark.parametrize("begun", [False, True])
def test_an_engine_that_is_closed_is_not_dead(begun: bool) -> None:
    async def scene() -> None:
        loop = new_loop(Slow())
        loop.start()
        if not begun:
            loop.close()
        task = asyncio.create_task(submit_line(OpenAIService(loop, ByteTokenizer()), _line(CHAT)))
        while begun and not loop.requests:
            await asyncio.sleep(0)
        loop.close()
        with pytest.raises(HostStopped):
            await task

    asyncio.run(scene())
