"""From a measured profile to a running server: the local engine, predicted and driven."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from brim.workloads.formats import write
from brim.workloads.trace import Trace, TraceRequest
from tests.e2e.conftest import KV_TOKENS, ServerProcess
from tests.e2e.test_commands import brim


@pytest.mark.slow
def test_a_measured_profile_is_held_against_the_server(
    tmp_path: Path, serve: Callable[..., ServerProcess]
) -> None:
    """No error is asserted: a shared machine is as fast as it likes. All tokens come on both sides."""
    profile = tmp_path / "measured.json"
    measured = brim("profile", "measure", "--quick", "--repeats", "1", "-o", str(profile), folder=tmp_path)
    assert measured.returncode == 0, measured.stderr
    chats, batch = tmp_path / "chats.csv", tmp_path / "batch.csv"
    write(Trace("chats", [TraceRequest(100_000_000 * i, 30 + i, 12) for i in range(10)]), chats)
    write(Trace("batch", [TraceRequest(0, 60, 8)] * 10), batch)
    url = serve("--policy", "vllm").address
    trace = [str(chats), "--offline", str(batch), "--kv-tokens", str(KV_TOKENS), "--max-model-len", "512"]
    flags = ["--profile", str(profile), "--url", url, "--policy", "vllm", "--json"]
    run = brim("profile", "check", *trace, *flags, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["requests"] == {"online": 10, "offline": 10}
    for _, _, *values in found["figures"]:
        assert all(value > 0 for value in values[:2])
