"""Length keys of a request, and the record of how long its answer got."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from pathlib import Path

import pytest

from brim.batch_api.lines import BatchLine
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.served_length import ServedLength
from brim.core.events import Arrived, Event, Finished
from brim.core.request import FinishReason, Request, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler
from brim.engines.loop import EngineLoop
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server import length_log
from brim.server.length_log import LengthLog, recording
from brim.server.lines import submit_line
from brim.server.options import ServerOptions
from brim.server.service import OpenAIService
from tests.server.http_harness import HELLO, MODEL, Running, running

SYSTEM = {"role": "system", "content": "You are terse. " * 50}


def keys_of(run: Running, path: str, body: dict, headers: dict | None = None) -> tuple[str, ...]:
    body = {"model": MODEL, "max_tokens": 2, **body}
    response = run.http().post(f"/v1/{path}", json=body, headers=headers or {})
    assert response.status_code == 200, response.text
    return run.loop.requests[-1].length_keys


def chat(run: Running, *messages: dict, headers: dict | None = None) -> tuple[str, ...]:
    return keys_of(run, "chat/completions", {"messages": [*messages]}, headers)


def test_a_system_message_is_a_group_by_its_beginning(server: Running) -> None:
    (key,) = chat(server, SYSTEM, *HELLO)
    assert key.startswith("system:")
    later = {**SYSTEM, "content": SYSTEM["content"] + "Today is Monday."}
    assert chat(server, later, *HELLO) == (key,)
    assert chat(server, {**SYSTEM, "role": "developer"}, *HELLO) == (key,)
    assert chat(server, {**SYSTEM, "content": "You are verbose."}, *HELLO) != (key,)
    assert chat(server, *HELLO) == ()
    assert "terse" not in key


def test_a_prompt_is_a_group_by_its_first_tokens(server: Running) -> None:
    (key,) = keys_of(server, "completions", {"prompt": "Summarise this text: one"})
    assert key.startswith("head:")
    assert keys_of(server, "completions", {"prompt": "Summarise this text: two"}) == (key,)
    assert keys_of(server, "completions", {"prompt": "Translate this text: two"}) != (key,)
    assert keys_of(server, "completions", {"prompt": "short"}) == ()


def test_a_tenant_is_a_group_and_so_are_those_it_acts_for(server: Running) -> None:
    def fair(name: str) -> dict[str, str]:
        return {"x-llm-d-inference-fairness-id": name}

    (key,) = chat(server, *HELLO, headers=fair("alice"))
    assert key.startswith("tenant:")
    assert chat(server, *HELLO, headers=fair("alice")) == (key,)
    assert chat(server, *HELLO, headers=fair("bob")) != (key,)
    assert "alice" not in key
    with running(server_options=ServerOptions(api_keys=("first", "second"))) as run:

        def by(name: str, **headers: str) -> tuple[str, ...]:
            return chat(run, SYSTEM, *HELLO, headers={"authorization": f"Bearer {name}", **headers})

        first, second = by("first"), by("second")
        assert [key.partition(":")[0] for key in first] == ["system", "tenant"]
        assert first[0] == second[0]
        assert first[1] != second[1]
        assert by("first", **fair("alice"))[1] not in (first[1], key)  # nobody can take another's place


def line(body: dict, endpoint: str = "/v1/chat/completions") -> BatchLine:
    return BatchLine("batch_1", 7, "mine", endpoint, {"model": MODEL, **body}, int(time.time()) + 3600, "t1")


def run_lines(path: Path, *lines: BatchLine) -> None:
    with recording(path) as observe:
        engine = ScriptedEngine()
        caps = engine.caps
        config = SchedulerConfig(caps.num_blocks, caps.block_size, caps.max_model_len)
        loop = EngineLoop(engine, Scheduler(config), observe=observe)
        loop.start()
        try:
            service = OpenAIService(loop, ByteTokenizer())
            for each in lines:
                asyncio.run(submit_line(service, each))
        finally:
            loop.close()


def test_every_answer_is_recorded_without_its_text(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    body = {"messages": [SYSTEM, *HELLO], "max_tokens": 5}
    run_lines(path, line({**body, "temperature": 0.5}), line({**body, "n": 2, "max_tokens": 3}))
    run_lines(path, line({"prompt": "abc", "max_tokens": 1}, "/v1/completions"))
    text = path.read_text()
    rows = [ServedLength.from_json(row) for row in text.splitlines()]
    assert [row.output_tokens for row in rows] == [5, 3, 3, 1]
    assert [row.temperature for row in rows] == [0.5, 1.0, 1.0, 1.0]
    assert {row.task_class for row in rows} == {TaskClass.OFFLINE}
    assert [key.partition(":")[0] for key in rows[0].length_keys] == ["job", "system", "tenant"]
    assert rows[0].length_keys[0] == "job:batch_1"
    assert "terse" not in text
    assert "hello" not in text


def events(request_id: str, reason: FinishReason) -> list[Event]:
    request = Request(request_id, (1, 2), SamplingParams(max_tokens=9))
    return [Arrived(0, 0, request), Finished(1, 1, request_id, reason, 4)]


def test_only_answers_that_ended_by_themselves_are_recorded(tmp_path: Path) -> None:
    with recording(tmp_path / "served.jsonl") as observe:
        assert observe is not None
        for reason in FinishReason:
            observe(events(reason, reason))
        observe([Finished(1, 1, "unknown", FinishReason.STOP, 4)])
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 2  # stop and length


def test_many_answers_are_all_written(tmp_path: Path) -> None:
    with recording(tmp_path / "served.jsonl") as observe:
        assert observe is not None
        for number in range(2000):
            observe(events(str(number), FinishReason.STOP))
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 2000


class FullDisk(io.BytesIO):
    def write(self, *_: object) -> int:
        raise OSError(28, "No space left on device")


def test_a_disk_error_is_told_once_and_stops_the_record_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "brim"):
        lengths = LengthLog(FullDisk())
        for number in range(100):
            lengths.observe(events(str(number), FinishReason.STOP))
            time.sleep(0.0005)
        lengths.close()
    assert [record.getMessage() for record in caplog.records] == [
        "answers' lengths are no longer recorded: [Errno 28] No space left on device"
    ]


def test_a_disk_that_hangs_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    class Hanging(io.BytesIO):
        def write(self, data: object) -> int:
            released.wait()
            return 0

    monkeypatch.setattr(length_log, "MAX_BEHIND", 20)
    lengths = LengthLog(Hanging())
    with caplog.at_level(logging.ERROR, "brim"):
        for number in range(1000):
            lengths.observe(events(str(number), FinishReason.STOP))
    released.set()
    lengths.close()
    assert [record.getMessage() for record in caplog.records] == [
        "answers' lengths are no longer recorded: the disk is too slow"
    ]


def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    path.write_text('{"prompt_to')
    with recording(path) as observe:
        assert observe is not None
        observe(events("a", FinishReason.STOP))
    cut, whole = path.read_text().splitlines()
    assert cut == '{"prompt_to'
    assert json.loads(whole)["output_tokens"] == 4


def test_without_a_file_nothing_is_observed() -> None:
    with recording(None) as observe:
        assert observe is None


def test_a_file_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="record_lengths needs a file"), recording(tmp_path):
        pass
