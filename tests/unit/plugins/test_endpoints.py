"""What the plug-in puts into vLLM's application: routes, keys, metrics, and the life of its batch jobs."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from brim.batch_api.api import BatchApi
from brim.core.errors import ConfigError
from brim.plugins.vllm import metrics
from brim.plugins.vllm.options import HttpOptions, read_options
from brim.server import scrape
from brim.wire.errors import draining
from tests.unit.plugins.fake_vllm import MODEL, FakeEngine, make_app, vllm_registry

HELLO = {"model": MODEL, "prompt": "hello"}


class Host:
    """Runs coroutines and requests inside one application, its lifespan around them."""

    def __init__(self, engine: FakeEngine, folder: Path | str = "", **flags: Any) -> None:
        flags.setdefault("additional_config", {"brim": {"server": {"data_folder": str(folder)}}})
        self.engine = engine
        self.app = make_app(engine, **flags)

    def run(self, scene: Any) -> Any:
        async def whole() -> Any:
            self.app.state.engine_client = self.engine
            async with self.app.router.lifespan_context(self.app):
                transport = httpx2.ASGITransport(app=self.app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://vllm") as http:
                    return await scene(http)

        return asyncio.run(whole())

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.run(lambda http: http.get(path, headers=headers))

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.run(lambda http: http.post(path, json=body, headers=headers))


async def ended(http: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    while True:
        batch = (await http.get(f"/v1/batches/{batch_id}")).json()
        if batch["status"] in ("completed", "failed", "expired", "cancelled"):
            return batch
        await asyncio.sleep(0.01)


async def begun(http: httpx2.AsyncClient, *bodies: dict[str, Any]) -> str:
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    raw = "\n".join(map(json.dumps, lines)).encode()
    uploaded = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", raw)})
    asked = {
        "input_file_id": uploaded.json()["id"],
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    return (await http.post("/v1/batches", json=asked)).json()["id"]


def test_a_batch_is_run_by_vllms_own_routes(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def scene(http: httpx2.AsyncClient) -> None:
        batch = await ended(http, await begun(http, HELLO, HELLO | {"max_tokens": 0}))
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        output = (await http.get(f"/v1/files/{batch['output_file_id']}/content")).json()
        assert output["response"]["body"]["service_tier"] == "flex"
        assert {body["vllm_xargs"]["task_class"] for body in engine.bodies} == {"offline"}

    Host(engine, tmp_path).run(scene)


def test_lines_need_no_key(tmp_path: Path) -> None:
    async def scene(http: httpx2.AsyncClient) -> dict[str, Any]:
        http.headers["authorization"] = "Bearer k"
        return await ended(http, await begun(http, HELLO))

    batch = Host(FakeEngine(), tmp_path, api_key=["k"]).run(scene)
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_lines_under_way_run_again_after_a_restart(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def interrupted(http: httpx2.AsyncClient) -> str:
        engine.hold = asyncio.Event()
        batch = await begun(http, HELLO, HELLO)
        while engine.running < 2:
            await asyncio.sleep(0)
        return batch

    batch_id = Host(engine, tmp_path).run(interrupted)
    assert engine.running == 0
    batch = Host(FakeEngine(), tmp_path).run(lambda http: ended(http, batch_id))
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


def test_a_batch_for_a_model_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    async def scene(http: httpx2.AsyncClient) -> dict[str, Any]:
        return await ended(http, await begun(http, HELLO | {"model": "other"}))

    assert Host(FakeEngine(), tmp_path).run(scene)["status"] == "failed"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"endpoint": "\\ud800"}', 400, "invalid_json"),
        (b'{"endpoint": "' + b"x" * (1 << 20) + b'"}', 413, "request_too_large"),
    ],
)
def test_the_body_of_a_batch_is_read_as_by_brims_own_server(
    tmp_path: Path, body: bytes, status: int, code: str
) -> None:
    answer = Host(FakeEngine(), tmp_path).run(lambda http: http.post("/v1/batches", content=body))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_tier_becomes_facts_and_a_bad_target_an_error() -> None:
    host = Host(FakeEngine())
    answer = host.post("/v1/chat/completions", HELLO | {"service_tier": "flex"}, **{"x-slo-e2e-ms": "9"})
    assert answer.json()["service_tier"] == "flex"
    facts = {"task_class": "offline", "deadline_ms": 600_000.0, "e2e_ms": 9.0}
    assert host.engine.bodies == [HELLO | {"service_tier": "flex", "vllm_xargs": facts}]


def test_several_api_servers_refuse_files_and_batches_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(FakeEngine(), tmp_path, api_server_count=2)
    assert "--api-server-count 1" in caplog.text
    for path in ("/v1/files", "/v1/files/file-1/content", "/v1/batches", "/v1/batches/b"):
        answer = host.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_served")
    assert not list(tmp_path.iterdir())


def test_without_a_folder_there_are_no_files() -> None:
    host = Host(FakeEngine(), "")
    assert host.get("/v1/files").status_code == 404
    assert host.get("/brim").json()["data_folder"] is None


def test_metrics_stand_below_vllms_by_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.0)
    with vllm_registry():
        host = Host(FakeEngine())
        text = host.get("/metrics").text
        assert "vllm:num_requests_running 7.0" in text
        assert "# TYPE brim:requests_arrived_total counter" in text
        assert 'brim:requests_arrived_total{class="offline",engine="1"} 3.0' in text
        assert 'brim:step_time_bias{engine="0"} 0.5' in text
        host.engine.engine_core.fails = True
        for _ in range(3):
            text = host.get("/metrics").text
            assert "vllm:num_requests_running 7.0" in text
            assert "brim:step_time_bias" not in text
        assert caplog.text.count("missing from /metrics") == 1


def test_any_number_of_scrapes_is_one_question_to_the_engine_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(http: httpx2.AsyncClient) -> None:
        at_once = await asyncio.gather(*(http.get("/metrics") for _ in range(20)))
        assert len({answer.text for answer in [*at_once, await http.get("/metrics")]}) == 1
        assert host.engine.engine_core.asked == ["brim_samples"]
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + metrics.FRESH_SECONDS)
        monkeypatch.setattr(scrape, "time", later)
        await http.get("/metrics")
        assert host.engine.engine_core.asked == ["brim_samples"] * 2

    with vllm_registry():
        host = Host(FakeEngine())
        host.run(scene)


def test_who_asks_while_an_answer_is_made_waits_for_that_one() -> None:
    async def scene() -> None:
        made, ready = [], asyncio.Event()

        async def make() -> bytes:
            made.append(1)
            await ready.wait()
            return b"figures"

        shared = scrape.Shared(make)
        first, second = (asyncio.create_task(shared.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()  # this client left
        await asyncio.sleep(0)
        ready.set()
        assert (await second, len(made)) == (b"figures", 1)

    asyncio.run(scene())


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), draining(), None])
def test_vllms_metrics_need_no_batch_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """`error` None: the store is busy with something long."""

    async def job_counts(_: BatchApi) -> dict[str, int]:
        if error is not None:
            raise error
        await asyncio.sleep(60)
        return {}

    monkeypatch.setattr(BatchApi, "job_counts", job_counts)
    monkeypatch.setattr(scrape, "ANSWER_SECONDS", 0.05)
    with vllm_registry():
        answer = Host(FakeEngine(), tmp_path).get("/metrics")
    assert answer.status_code == 200
    assert "vllm:num_requests_running 7.0" in answer.text
    assert "brim:step_time_bias" in answer.text
    assert "brim:batch_jobs" not in answer.text


def test_metrics_tell_of_the_batch_jobs(tmp_path: Path) -> None:
    async def scene(http: httpx2.AsyncClient) -> str:
        await ended(http, await begun(http, HELLO))
        return (await http.get("/metrics")).text

    with vllm_registry():
        assert 'brim:batch_lines_total{result="completed"} 1.0' in Host(FakeEngine(), tmp_path).run(scene)


def test_the_switch_and_what_it_tells() -> None:
    host = Host(FakeEngine())
    answer = host.post("/brim/mode", {"mode": "stock"}).json()
    assert answer == {"engines": {n: {"scheduler": "AScheduler", "mode": "stock"} for n in ("0", "1")}}
    told = host.get("/brim").json()["engines"]["1"]
    assert told["mode"] == "stock"
    assert told["figures"]["step_time_bias"] == 1.5
    assert host.post("/brim/mode", {"mode": "off"}).status_code == 400
    host.engine.engine_core.refuses = "not on this version"
    answer = host.post("/brim/mode", {"mode": "active"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (409, "not on this version")
    host.engine.engine_core.refusing = [b"1"]
    answer = host.post("/brim/mode", {"mode": "active"})
    told = "Engine 1 did not change its mode: not on this version. Engine 0 did."
    assert (answer.status_code, answer.json()["error"]["message"]) == (409, told)
    host.engine.engine_core.refuses = host.engine.engine_core.mode = ""
    answer = host.post("/brim/mode", {"mode": "stock"})
    assert answer.status_code == 409
    assert "--scheduler-cls" in answer.json()["error"]["message"]
    host.engine.errored = True
    assert [host.get("/brim").status_code, host.post("/brim/mode", {"mode": "stock"}).status_code] == [
        503
    ] * 2


@pytest.mark.parametrize("root", ["", "/x"])
def test_the_switch_needs_a_key_where_vllm_needs_one(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "unused")
    host = Host(FakeEngine(), api_key=["k1", "k2"], root_path=root)
    host.app.root_path = root
    for path in {"/brim", root + "/brim"}:
        assert host.get(path).status_code == 401
        assert host.get(path, authorization="Bearer unused").status_code == 401
        assert host.get(path, authorization="Bearer k2").status_code == 200
        assert host.post(path + "/mode", {"mode": "stock"}).status_code == 401


def test_the_key_of_the_environment_counts_where_the_flag_is_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "k")
    host = Host(FakeEngine())
    assert host.get("/brim").status_code == 401
    assert host.get("/brim", authorization="Bearer k").status_code == 200


def test_each_key_has_its_own_files(tmp_path: Path) -> None:
    host = Host(FakeEngine(), tmp_path, api_key=["k1", "k2"])

    async def scene(http: httpx2.AsyncClient) -> list[int]:
        file = {"file": ("a", b"{}")}
        headers = [{"authorization": f"Bearer {key}"} for key in ("k1", "k2")]
        await http.post("/v1/files", data={"purpose": "batch"}, files=file, headers=headers[0])
        return [len((await http.get("/v1/files", headers=each)).json()["data"]) for each in headers]

    assert host.run(scene) == [1, 0]


def test_options_come_from_additional_config_then_the_environment() -> None:
    config = {"brim": {"policy": "echo", "server": {"batch_window": 7}}}
    options = read_options(config, {"BRIM_DATA_FOLDER": "/d", "BRIM_BATCH_WINDOW": "9"})
    assert (options.data_folder, options.batch_window) == ("/d", 7)
    assert read_options(None, {}) == HttpOptions()
    assert read_options({}, {"BRIM_PRIORITY_TTFT_MS": "50"}).tier_rules.priority_targets == {"ttft_ms": 50.0}


@pytest.mark.parametrize("server", [{"batch_window": 0}, {"folder": "x"}, [], "x"])
def test_an_option_that_is_wrong_is_named(server: Any) -> None:
    with pytest.raises(ConfigError, match="server"):
        read_options({"brim": {"server": server}}, {})


def test_a_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Host(FakeEngine(), tmp_path / "file").get("/brim")
