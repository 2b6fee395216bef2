"""Keys, limits, health, metrics, and an orderly end."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from brim.batch_api.api import BatchApi
from brim.core.errors import ConfigError, EngineDead
from brim.core.request import TaskClass
from brim.engines.scripted import ScriptedEngine
from brim.server import scrape
from brim.server.lines import submit_line
from brim.server.options import ServerOptions, ServiceOptions
from brim.server.runner import listen
from tests.server.http_harness import HELLO, MODEL, Running, SteppedEngine, running, until

CHAT = {"model": MODEL, "messages": HELLO, "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded():
    options = ServerOptions(api_keys=("first", "second"), guard_metrics=True, max_body_bytes=1000)
    with running(server_options=options) as run:
        yield run


def test_every_key_is_accepted(guarded: Running) -> None:
    for key in ("first", "second"):
        assert guarded.openai(key).chat.completions.create(**CHAT).choices
        assert guarded.openai(key).models.list().data[0].id == MODEL


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "first"},
        {"authorization": "Basic first"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer third"},
        {"authorization": "Bearer first second"},
        {"x-api-key": "first"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nowhere", "/metrics"])
def test_other_keys_are_not(guarded: Running, headers: dict[str, str], path: str) -> None:
    answer = guarded.http(headers=headers).get(path)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


def test_key_in_the_query_is_no_key(guarded: Running) -> None:
    assert guarded.http().get("/v1/models?api_key=first").status_code == 401


def test_what_needs_no_key(guarded: Running) -> None:
    http = guarded.http()
    assert [http.get(path).status_code for path in ("/health", "/ready", "/version", "/load")] == [200] * 4
    assert http.options("/v1/models").status_code != 401


def test_blanks_before_a_key_are_no_part_of_it(guarded: Running) -> None:
    assert guarded.http(headers={"authorization": "Bearer  first"}).get("/v1/models").status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_keys_that_are_not_ascii(encoding: str) -> None:
    with running(server_options=ServerOptions(api_keys=("schlüssel", "鍵"))) as run:
        http = run.http()
        for key, status in (("schlüssel", 200), ("鍵", 200 if encoding == "utf-8" else 401), ("clé", 401)):
            sent = f"Bearer {key}".encode(encoding, "replace")
            assert http.get("/v1/models", headers=[(b"authorization", sent)]).status_code == status


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_head_answers_as_get(server: Running, path: str) -> None:
    answer = server.http().head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_keys_share_no_cached_prefixes(guarded: Running) -> None:
    messages = [{"role": "user", "content": "x" * 200}]
    cached = [
        guarded.openai(key)
        .chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
        .usage.prompt_tokens_details.cached_tokens
        for key in ("first", "second", "first")
    ]
    assert cached[:2] == [0, 0]
    assert cached[2] > 0


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_a_413(guarded: Running, chunked: bool) -> None:
    content = b" " * 5000
    body = iter([content[:2500], content[2500:]]) if chunked else content
    answer = guarded.http(headers={"authorization": "Bearer first"}).post("/v1/completions", content=body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_models(server: Running, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "brim"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("some/other")
    assert caught.value.code == "model_not_found"


def test_model_names_of_the_operator() -> None:
    with running(service_options=ServiceOptions(model_names=("org/name", "alias"))) as run:
        client = run.openai()
        assert [model.id for model in client.models.list()] == ["org/name", "alias"]
        assert client.models.retrieve("org/name").id == "org/name"
        assert client.chat.completions.create(**{**CHAT, "model": "alias"}).model == "alias"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**CHAT)


def test_request_ids(server: Running) -> None:
    http = server.http()
    assert http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {http.get("/health").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert http.get("/health", headers={"x-request-id": "y" * 200}).headers["x-request-id"] != "y" * 200


def test_version_and_load(server: Running) -> None:
    http = server.http()
    assert http.get("/version").json()["engine"] == "scripted"
    assert http.get("/load").json()["server_load"] == 0


def test_the_description_names_the_request_bodies(server: Running) -> None:
    paths = server.http().get("/openapi.json").json()["paths"]
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"model", "messages"} <= set(schema["required"])
    assert "Message" in schema["$defs"]


def _samples(http: httpx2.Client) -> dict[tuple[str, frozenset], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _labels(**labels: str) -> frozenset:
    return frozenset({"model_name": MODEL, **labels}.items())


def test_metrics() -> None:
    with running() as run:
        client = run.openai()
        for tier in ("auto", "flex"):
            client.chat.completions.create(
                **CHAT, service_tier=tier, extra_headers={"x-llm-d-slo-ttft-ms": "60000"}
            )
        until(lambda: run.loop.stats().num_running == 0)
        samples = _samples(run.http())
    prompt = len(b"user: hello\nassistant: ")
    assert samples["vllm:prompt_tokens_total", _labels()] == 2 * prompt
    assert samples["vllm:generation_tokens_total", _labels()] == 4
    assert samples["vllm:request_success_total", _labels(finished_reason="length")] == 2
    assert samples["vllm:num_requests_running", _labels()] == 0
    assert samples["vllm:time_to_first_token_seconds_count", _labels()] == 2
    assert samples["vllm:inter_token_latency_seconds_bucket", _labels(le="+Inf")] == 2
    assert samples["vllm:cache_config_info", _labels(block_size="16", num_gpu_blocks="512")] == 1
    for name in ("online", "offline"):
        mine = {"class": name}
        assert samples["brim:output_tokens_total", _labels(**mine)] == 2
        assert samples["brim:ttft_seconds_count", _labels(**mine)] == 1
        assert samples["brim:requests_finished_total", _labels(**mine, reason="length")] == 1
    met = _labels(**{"class": "online", "slo": "ttft", "met": "true"})
    assert samples["brim:slo_attainment_total", met] == 1


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), None])
def test_metrics_need_no_batch_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
) -> None:
    """`error` None: the store is busy with something long."""

    async def job_counts(_: BatchApi) -> dict[str, int]:
        if error is not None:
            raise error
        return await asyncio.Event().wait()

    monkeypatch.setattr(BatchApi, "job_counts", job_counts)
    monkeypatch.setattr(scrape, "ANSWER_SECONDS", 0.05)
    with running(batch_api=lambda service: BatchApi(tmp_path, partial(submit_line, service))) as run:
        http = run.http()
        for _ in range(3):
            answer = http.get("/metrics")
            assert answer.status_code == 200
            assert "vllm:num_requests_running" in answer.text
            assert "brim:batch_jobs" not in answer.text
            assert "brim:batch_figures_missing 1.0" in answer.text
    assert caplog.text.count("missing from /metrics") == 1


def test_a_policy_shows_what_it_knows_of_itself() -> None:
    with running(policy="echo") as run:
        client, http = run.openai(), run.http()
        for tier in ("auto", "flex"):
            client.chat.completions.create(
                **CHAT, service_tier=tier, extra_headers={"x-slo-ttft-ms": "0.000001"}
            )
        until(lambda: run.loop.stats().num_running == 0)
        samples, load = _samples(http), http.get("/load").json()
    assert samples["brim:predicted_misses_total", _labels(**{"class": "online"})] == 1
    assert samples["brim:predicted_misses_total", _labels(**{"class": "offline"})] == 0
    assert load["prefix_reuse"] == {"online": 0.0, "offline": 16 / len(b"user: hello\nassistant: ")}
    assert load["scheduler"]["offline_requests_pooled"] == 0
    assert load["scheduler"]["offline_headroom_blocks"] > 0
    for name, value in load["scheduler"].items():
        assert samples[f"brim:{name}", _labels()] == pytest.approx(value)


def test_a_dead_engine() -> None:
    class Dying(ScriptedEngine):
        def finish(self):
            raise EngineDead("the device is gone")

    with running(Dying()) as run:
        client, http = run.openai(), run.http()
        for _ in range(2):  # whom it died under, and who comes later
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(**CHAT)
            assert (caught.value.status_code, caught.value.code) == (503, "engine_dead")
            assert caught.value.response.headers["retry-after"]
            assert "device" not in str(caught.value)
            assert [http.get(path).status_code for path in ("/health", "/ready")] == [503, 503]


def test_an_engine_that_dies_in_mid_stream() -> None:
    class Dying(SteppedEngine):
        def finish(self):
            super().finish()
            raise EngineDead("the device is gone")

    engine = Dying()
    with running(engine) as run:
        stream = run.openai().completions.create(model=MODEL, prompt="x", stream=True)
        engine.free()
        with stream, pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "engine_dead"
        assert "device" not in str(caught.value)


def test_a_step_that_does_not_return_is_no_health() -> None:
    engine = SteppedEngine()
    with running(engine, server_options=ServerOptions(stuck_step_seconds=0.05)) as run:
        http = run.http()
        assert http.get("/health").status_code == 200
        with run.openai().completions.create(model=MODEL, prompt="x", max_tokens=2, stream=True) as stream:
            until(lambda: http.get("/health").status_code == 503)
            assert http.get("/ready").status_code == 503
            engine.free()
            list(stream)
        until(lambda: http.get("/ready").status_code == 200)
        assert http.get("/health").status_code == 200


def test_drain_finishes_what_is_under_way() -> None:
    engine = SteppedEngine()
    with running(engine) as run:
        client, http = run.openai(), run.http()
        stream = client.completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True)
        until(lambda: run.loop.stats().num_running == 1)
        run.server.handle_exit(signal.SIGTERM, None)
        until(lambda: http.get("/ready").status_code == 503)
        assert http.get("/health").status_code == 200
        with pytest.raises(openai.InternalServerError) as caught:
            run.openai().completions.create(model=MODEL, prompt="x")
        assert caught.value.code == "server_is_draining"
        engine.free()
        with stream:
            chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        run.thread.join()


def test_a_body_that_arrives_during_the_drain_is_too_late() -> None:
    engine = SteppedEngine()
    body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 2}).encode()
    drained = threading.Event()

    def content() -> Iterator[bytes]:
        yield body[:9]
        drained.wait()
        yield body[9:]

    with running(engine) as run, ThreadPoolExecutor() as pool:
        stream = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True)
        http = run.http()
        late = pool.submit(http.post, "/v1/completions", content=content(), timeout=30)
        until(lambda: len(run.server.server_state.tasks) == 2)
        run.server.handle_exit(signal.SIGTERM, None)
        until(lambda: run.http().get("/ready").status_code == 503)
        drained.set()
        until(lambda: late.done() or len(run.loop.requests) > 1)
        engine.free()
        assert late.result().status_code == 503
        assert late.result().json()["error"]["code"] == "server_is_draining"
        with stream:
            assert list(stream)[-1].choices[0].finish_reason == "length"


def test_a_body_that_does_not_come_to_its_end_is_answered_when_the_drain_begins() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: brim\r\ncontent-length: 100\r\n\r\n"
    engine = SteppedEngine()
    with running(engine) as run:
        stream = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True)
        host, port = run.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(head + b'{"model": ')
            until(lambda: len(run.server.server_state.tasks) == 2)
            run.server.handle_exit(signal.SIGTERM, None)
            answer = client.recv(65_536)
        engine.free()
        with stream:
            assert list(stream)[-1].choices[0].finish_reason == "length"
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"server_is_draining" in answer


def test_drain_breaks_off_what_takes_too_long() -> None:
    engine = SteppedEngine()
    with running(engine, server_options=ServerOptions(shutdown_timeout_seconds=0)) as run:
        stream = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=4000, stream=True)
        until(lambda: run.loop.stats().num_running == 1)
        run.server.handle_exit(signal.SIGTERM, None)
        until(lambda: engine.allowed.release() or not run.thread.is_alive())
        with stream, pytest.raises(openai.APIError, match="shutting down") as caught:
            list(stream)
        assert caught.value.code == "server_is_draining"


def test_second_signal_forces_the_end() -> None:
    engine = SteppedEngine()
    with running(engine) as run:
        stream = run.openai().completions.create(model=MODEL, prompt="x", max_tokens=4000, stream=True)
        until(lambda: run.loop.stats().num_running == 1)
        run.server.handle_exit(signal.SIGTERM, None)
        run.server.handle_exit(signal.SIGTERM, None)
        run.thread.join()
        stream.close()


def test_drain_puts_batch_lines_back(tmp_path: Path) -> None:
    def batch_api(service) -> BatchApi:
        async def submit(line):
            return await submit_line(service, line)

        return BatchApi(tmp_path, submit, models=lambda: service.model_names)

    engine = SteppedEngine()
    with running(engine, batch_api=batch_api) as run:
        client = run.openai()
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
        content = json.dumps(line).encode()
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        job = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        until(lambda: run.loop.stats().num_running == 1)
        samples = _samples(run.http())
        assert samples["brim:batch_jobs", frozenset({("status", "in_progress")})] == 1
        assert samples["brim:batch_lines_in_flight", frozenset()] == 1
        until(lambda: run.http().get("/load").json()["batch_backlog"]["lines"] == 1)  # told every second
        assert run.http().get("/load").json()["batch_backlog"]["most_seconds"] is None
        samples = _samples(run.http())
        assert samples["brim:batch_backlog_lines", frozenset()] == 1
        assert ("brim:batch_backlog_seconds", frozenset({("bound", "most")})) not in samples
        run.server.handle_exit(signal.SIGTERM, None)
        until(lambda: run.http().get("/ready").status_code == 503)
        with pytest.raises(openai.InternalServerError):
            client.batches.retrieve(job.id)
        engine.free()
        run.thread.join()
        assert run.loop.requests[0].task_class is TaskClass.OFFLINE

    with running(batch_api=batch_api) as run:
        client = run.openai()
        until(lambda: client.batches.retrieve(job.id).status == "completed")
        answer = json.loads(client.files.content(client.batches.retrieve(job.id).output_file_id).text)
        assert answer["response"]["body"]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "options",
    [{"api_keys": ("",)}, {"comment_seconds": 0}, {"keep_alive_seconds": 0}, {"write_timeout_seconds": -1}],
)
def test_options_that_cannot_work(options: dict) -> None:
    with pytest.raises(ConfigError):
        ServerOptions(**options)


def test_a_port_in_use_is_said() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another"):
        listen("127.0.0.1", taken.getsockname()[1])


SERVE = """
import sys
from brim.engines import loop as engine_loop
from tests.server.http_harness import SteppedEngine, new_loop
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.app import create_app
from brim.server.options import ServerOptions
from brim.server.runner import listen, make_server
from brim.server.service import OpenAIService
engine_loop.CLOSE_SECONDS = 0.1
loop = new_loop(SteppedEngine() if "stuck" in sys.argv else ScriptedEngine())
loop.start()
app = create_app(OpenAIService(loop, ByteTokenizer()), options=ServerOptions(shutdown_timeout_seconds=0))
listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], file=sys.stderr, flush=True)
make_server(app).run(sockets=[listener])
loop.close()
print("closed")
"""


@contextmanager
def _served(*arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        port = int(process.stderr.readline())
        next(line for line in process.stderr if "startup complete" in line)
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def test_sigterm_ends_the_process_with_0() -> None:
    with _served() as (process, _):
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "closed\n"), err


def test_sigterm_ends_the_process_of_a_step_that_does_not_return() -> None:
    with _served("stuck") as (process, url):
        body = {"model": MODEL, "prompt": "x", "stream": True}
        with httpx2.stream("POST", f"{url}/v1/completions", json=body) as answer:
            process.send_signal(signal.SIGTERM)
            assert "server_is_draining" in answer.read().decode()
        out, err = process.communicate()
    assert process.returncode == 1
    assert "its step hangs" in err
    assert not out
