"""The other commands and the examples, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import ServerProcess

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def brim(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "BRIM_KV_TOKENS": "4096",
    }
    command = [sys.executable, "-m", "brim.cli.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def batch_file(folder: Path, *bodies: object) -> Path:
    path = folder / "in.jsonl"
    lines = [
        {"custom_id": f"c{i}", "method": "POST", "url": "/v1/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_run_batch_answers_every_line_and_says_which_failed(tmp_path: Path) -> None:
    good = {"model": "builtin", "prompt": "One two three", "max_tokens": 4, "temperature": 0}
    source = batch_file(tmp_path, good, {**good, "max_tokens": 2**63}, good)
    target = tmp_path / "out.jsonl"
    run = brim("run-batch", "-i", str(source), "-o", str(target), "--json", folder=tmp_path)
    assert run.returncode == 1, run.stderr  # some lines failed
    summary = json.loads(run.stdout)
    assert (summary["completed"], summary["failed"], summary["output_tokens"]) == (2, 1, 8)
    answers = {a["custom_id"]: a["response"] for a in map(json.loads, target.read_text().splitlines())}
    assert answers["c0"]["body"]["choices"] == answers["c2"]["body"]["choices"]
    assert answers["c1"]["status_code"] == 400
    assert answers["c1"]["body"]["error"]["param"] == "max_tokens"


def test_run_batch_refuses_a_wrong_file_before_it_loads_a_model(tmp_path: Path) -> None:
    source = batch_file(tmp_path, {"model": "builtin", "prompt": "a"}, "not an object")
    run = brim("run-batch", "-i", str(source), "-o", str(tmp_path / "out.jsonl"), folder=tmp_path)
    assert run.returncode == 2
    assert "line 2: 'body' must be a JSON object" in run.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_run_batch_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    body = {"model": "builtin", "prompt": "One two three", "max_tokens": 4, "temperature": 0}
    source, target = batch_file(tmp_path, body, body, body), tmp_path / "out.jsonl"
    arguments = ("run-batch", "-i", str(source), "-o", str(target), "--json")
    assert brim(*arguments, folder=tmp_path).returncode == 0
    first, *_ = target.read_bytes().splitlines(keepends=True)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    part = tmp_path / f"out.jsonl.{digest}.part"
    part.write_bytes(first.replace(b"batch_req_", b"kept_req_") + b'{"custom_id": "c2", "resp')
    run = brim(*arguments, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = target.read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == ["c0", "c1", "c2"]
    assert sum('"kept_req_' in line for line in lines) == 1
    assert not part.exists()


@pytest.mark.parametrize("output", [".", "no/such/folder/out.jsonl", "in.jsonl"])
def test_run_batch_refuses_an_output_it_can_not_write(tmp_path: Path, output: str) -> None:
    source = batch_file(tmp_path, {"model": "builtin", "prompt": "a"})
    run = brim("run-batch", "-i", str(source), "-o", str(tmp_path / output), folder=tmp_path)
    assert run.returncode == 2
    assert "give a" in run.stderr
    assert "Traceback" not in run.stderr
    assert "Loading" not in run.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "priorty"], "did you mean 'priority'"),
        (["--profile", "h100-lama-3-8b"], "did you mean h100-llama-3-8b?"),
        (["--max-num-seqs", "9999"], "max_num_seqs 9999 is over max_num_batched_tokens"),
    ],
)
def test_serve_says_what_is_wrong_and_what_to_do(tmp_path: Path, flags: list[str], message: str) -> None:
    run = brim("serve", "--port", "0", *flags, folder=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert "Loading" not in run.stderr  # minutes of it, for a large model


def test_a_policy_that_keeps_targets_is_served(serve: Callable[..., ServerProcess]) -> None:
    server = serve("--policy", "echo", "--profile", "h100-llama-3-8b", "--tpot-ms", "500")
    body = json.dumps({"model": "builtin", "prompt": "One two three", "max_tokens": 8, "ignore_eos": True})
    asked = urllib.request.Request(
        f"{server.address}/v1/completions", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 8
    with urllib.request.urlopen(f"{server.address}/load") as answer:
        told = json.load(answer)
    assert told["batch_backlog"] == {"lines": 0, "least_seconds": 0.0, "most_seconds": 0.0}
    assert {"step_time_bias", "offline_headroom_blocks"} <= set(told["scheduler"])
    assert "there are none: give ttft_ms" not in server.log()


def test_a_server_without_targets_says_what_that_means(serve: Callable[..., ServerProcess]) -> None:
    assert "there are none: give ttft_ms and tpot_ms" in serve("--policy", "echo").log()


def test_a_data_folder_in_use_is_said_before_the_model_is_loaded(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = serve()
    run = brim("serve", "--port", "0", "--data-folder", server.facts["data_folder"], folder=tmp_path)
    assert run.returncode == 2
    assert "is in use by another server" in run.stderr
    assert "Loading" not in run.stderr


def test_a_port_in_use_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = brim("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path)
    assert run.returncode == 2
    assert "can't listen on 127.0.0.1" in run.stderr
    assert "Loading" not in run.stderr


def test_examples_run(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    for example in EXAMPLES:
        env = {**os.environ, "OPENAI_BASE_URL": f"{server.address}/v1"}
        run = subprocess.run([sys.executable, example], env=env, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip()
