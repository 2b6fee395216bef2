"""vLLM's server with Brim inside, as `brim serve --engine vllm` starts it, driven by the openai client."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from brim.plugins.vllm.metrics import FRESH_SECONDS
from tests import monitoring

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed: brim[vllm]"),
]

ROOT = Path(__file__).parents[2]
MODEL = "tiny"
HELLO = [{"role": "user", "content": "hello"}]
ANSWER: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0}
START_SECONDS = 300


class VllmServer:
    """`brim serve --engine vllm` on a free port, with a small random model and little KV cache."""

    def __init__(self, folder: Path) -> None:
        from brim.engines.local import builtin

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = folder / "server.log"
        self._env = environment(folder)
        model = str(builtin.ensure(folder / "models"))
        brim = ["--engine", "vllm", "--served-model-name", MODEL, "--port", str(port), "--dtype", "float32"]
        limits = ["--max-model-len", "1024", "--max-num-seqs", "16", "--block-size", "32"]
        self._journal = folder / "journal"
        journal = json.dumps({"brim": {"decision_log": str(self._journal)}})
        own = ["--", "--enforce-eager", "--num-gpu-blocks-override", "256", "--additional-config", journal]
        self._command = [sys.executable, "-m", "brim.cli.main", "serve", model, *brim, *limits, *own]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            # its own group, our session: Linux shares cores by session, and a busy server starved the tests
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, process_group=0
            )
        end = time.monotonic() + START_SECONDS
        while not self._healthy():
            assert self._process.poll() is None, self.log()[-4000:]
            assert time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.5)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """The engine's process too, which outlives its parent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=60)

    def log(self) -> str:
        return self._log.read_text()

    def journal(self) -> Path:
        """The decisions of the engine that runs now."""
        return max(
            self._journal.parent.glob(f"{self._journal.name}.*"), key=lambda path: path.stat().st_mtime
        )

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.address + path, timeout=30)

    def brims(self) -> Counter[str]:
        """Brim's own samples on /metrics, by name and labels, of a moment that is still to come."""
        time.sleep(FRESH_SECONDS)
        rows = [row for row in self.get("/metrics").text.splitlines() if row.startswith("brim:")]
        return Counter({name: float(value) for name, _, value in (row.rpartition(" ") for row in rows)})

    def switch(self, mode: str) -> dict[str, Any]:
        answer = httpx2.post(f"{self.address}/brim/mode", json={"mode": mode}, timeout=30)
        return answer.raise_for_status().json()["engines"]["0"]

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return self.get("/health").status_code == 200
        return False


def environment(folder: Path) -> dict[str, str]:
    paths = [str(ROOT / "src")]
    if not any(each.name == "brim" for each in entry_points(group="vllm.endpoint_plugins")):
        paths.insert(0, str(metadata(folder)))  # before what an older install may have left in src
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BRIM_", "VLLM_"))},
        "PYTHONPATH": os.pathsep.join(paths),
        "BRIM_DATA_FOLDER": str(folder / "data"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def metadata(folder: Path) -> Path:
    """A folder that tells of the entry points in pyproject.toml, as an installed Brim would."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / "metadata" / f"brim-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: brim\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    text = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups
    )
    (info / "entry_points.txt").write_text(text)
    return info.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    server = VllmServer(tmp_path_factory.mktemp("vllm"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def client(server: VllmServer) -> Iterator[openai.OpenAI]:
    with server.openai() as client:
        yield client


def begin(client: openai.OpenAI, *bodies: dict[str, Any]) -> str:
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    raw = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", raw), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    ).id


def finished(client: openai.OpenAI, batch_id: str) -> Any:
    while (batch := client.batches.retrieve(batch_id)).status not in ("completed", "failed", "expired"):
        time.sleep(0.2)
    assert batch.status == "completed"
    return batch


def lines_of(client: openai.OpenAI, file_id: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line["response"]["body"] for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def test_the_command_is_printed(server: VllmServer) -> None:
    first = next(line for line in server.log().splitlines() if line.startswith("VLLM_PLUGINS="))
    assert "--scheduler-cls brim.plugins.vllm.BrimScheduler" in first


def test_a_tier_changes_when_an_answer_comes_and_not_what_it_says(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ANSWER)
    for asked, told in (("flex", "flex"), ("fast", "priority"), ("default", "default")):
        answer = client.chat.completions.create(**ANSWER, service_tier=asked)
        assert answer.service_tier == told
        assert answer.choices[0].message.content == plain.choices[0].message.content
    chunks = list(client.chat.completions.create(**ANSWER, service_tier="flex", stream=True))
    assert {chunk.service_tier for chunk in chunks} == {"flex"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    completion = client.completions.create(
        model=MODEL, prompt="hello", max_tokens=2, extra_body={"service_tier": "flex"}
    )
    assert completion.service_tier == "flex"
    assert client.responses.create(
        model=MODEL, input="hello", max_output_tokens=16, service_tier="flex"
    ).output


def test_targets_are_taken_and_checked(client: openai.OpenAI) -> None:
    client.chat.completions.create(**ANSWER, extra_headers={"x-slo-ttft-ms": "500", "x-slo-tpot-ms": "50"})
    client.chat.completions.create(**ANSWER, extra_body={"vllm_xargs": {"e2e_ms": 9000}})
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ANSWER, extra_headers={"x-slo-ttft-ms": "soon"})
    assert caught.value.param == "x-slo-ttft-ms"


def test_a_batch_answers_as_a_chat_does(client: openai.OpenAI) -> None:
    bodies = [ANSWER | {"max_tokens": n} for n in (1, 8, -1)]
    batch = finished(client, begin(client, *bodies))
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    lines = lines_of(client, batch.output_file_id)
    plain = client.chat.completions.create(**ANSWER)
    assert lines["c1"]["choices"][0]["message"]["content"] == plain.choices[0].message.content
    assert {line["service_tier"] for line in lines.values()} == {"flex"}
    assert "max_tokens" in lines_of(client, batch.error_file_id)["c2"]["error"]["message"]


def test_a_cancelled_batch_leaves_nothing_running(server: VllmServer, client: openai.OpenAI) -> None:
    batch_id = begin(client, *[ANSWER | {"max_tokens": 900, "ignore_eos": True}] * 20)

    def running() -> float:
        text = server.get("/metrics").text
        rows = [row for row in text.splitlines() if row.startswith("vllm:num_requests_running{")]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    wait_for(lambda: running() > 0)
    client.batches.cancel(batch_id)
    wait_for(lambda: running() == 0)


def test_metrics_stand_beside_vllms(server: VllmServer) -> None:
    text = server.get("/metrics").text
    assert "vllm:time_to_first_token_seconds_bucket" in text
    assert 'brim:batch_jobs{status="completed"}' in text


def test_metrics_tell_by_class_what_requests_got(server: VllmServer, client: openai.OpenAI) -> None:
    before = server.brims()
    for ttft_ms in ("600000", "600000", "0.001"):
        client.chat.completions.create(**ANSWER, extra_headers={"x-slo-ttft-ms": ttft_ms})
    client.chat.completions.create(**ANSWER, service_tier="flex")
    grown = server.brims() - before
    for name, number in (("online", 3), ("offline", 1)):
        assert grown[f'brim:requests_arrived_total{{class="{name}",engine="0"}}'] == number
        assert grown[f'brim:ttft_seconds_count{{class="{name}",engine="0"}}'] == number
        assert grown[f'brim:output_tokens_total{{class="{name}",engine="0"}}'] <= 8 * number
    met = 'brim:slo_attainment_total{{class="online",engine="0",met="{}",slo="{}"}}'
    assert [grown[met.format("true", slo)] for slo in ("ttft", "all", "tpot")] == [2, 2, 0]
    assert [grown[met.format("false", slo)] for slo in ("ttft", "all", "tpot")] == [1, 1, 0]
    assert not any("slo_attainment" in name and "offline" in name for name in grown)


def test_the_dashboard_and_the_rules_ask_for_what_vllm_exports(server: VllmServer) -> None:
    """Of its own names; those of Brim: tests/server/test_monitoring.py."""
    exported = monitoring.exported(server.get("/metrics").text)
    asked = [each for text in monitoring.expressions() for each in monitoring.metrics(text).items()]
    of_vllm = [(name, labels) for name, labels in asked if name.startswith(("vllm:", "http_"))]
    assert {"http_requests_total", "vllm:kv_cache_usage_perc"} <= {name for name, _ in of_vllm}
    for name, labels in of_vllm:
        assert name in exported
        assert labels <= exported[name] | monitoring.TARGET_LABELS, name


def test_the_switch_works_while_it_serves(server: VllmServer, client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ANSWER).choices[0].message.content
    for mode in ("stock", "shadow", "active"):
        assert server.switch(mode)["mode"] == mode
        answer = client.chat.completions.create(**ANSWER, service_tier="flex")
        assert answer.choices[0].message.content == plain
        assert server.get("/brim").json()["engines"]["0"]["mode"] == mode


def test_a_journal_tells_what_was_decided_and_what_another_policy_would_gain(
    server: VllmServer, client: openai.OpenAI, tmp_path: Path
) -> None:
    server.switch("shadow")
    bodies: list[dict[str, Any]] = []
    for i in range(60):
        line = {"role": "user", "content": "word " * (3 * i % 70)}
        tier = ("default", "flex")[i % 2]
        bodies.append(ANSWER | {"messages": [line], "max_tokens": 3 + 7 * i % 40, "service_tier": tier})
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: client.chat.completions.create(**body), bodies))
    server.switch("active")
    drawn = [answer.usage.completion_tokens for answer in answers]
    journal, trace = server.journal(), tmp_path / "served.csv"
    assert json.loads(brim("replay", journal, "--json"))["difference"] is None
    brim("trace", "convert", journal, "-o", trace)
    rows = [line.split(",")[1:3] for line in trace.read_text().splitlines()[2:]]
    assert Counter(drawn) <= Counter(int(row[1]) for row in rows)
    told = json.loads(brim("profile", "from-journal", journal, "-o", tmp_path / "mine.json", "--json"))
    assert told["served"]["ttft_seconds"]["p50"] > 0
    runs = json.loads(brim(*told["command"][1:], "--json"))["runs"]
    assert {run["online"]["finished"] + run["offline"]["finished"] for run in runs} == {len(rows)}


def brim(*words: object) -> str:
    command = [sys.executable, "-m", "brim.cli.main", *map(str, words)]
    path = {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("ends", [VllmServer.stop, VllmServer.kill])
def test_a_batch_survives_the_servers_end(server: VllmServer, client: openai.OpenAI, ends: Any) -> None:
    bodies = [ANSWER | {"max_tokens": 200, "ignore_eos": True, "seed": n} for n in range(24)]
    batch_id = begin(client, *bodies)
    wait_for(lambda: client.batches.retrieve(batch_id).request_counts.completed > 0)
    ends(server)
    server.kill()
    server.start()
    batch = finished(client, batch_id)
    assert batch.request_counts.model_dump() == {"total": 24, "completed": 24, "failed": 0}
    lines = lines_of(client, batch.output_file_id)
    assert {line["usage"]["completion_tokens"] for line in lines.values()} == {200}


def wait_for(holds: Any) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
