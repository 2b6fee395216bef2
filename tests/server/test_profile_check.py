"""`brim profile check` against Brim's own server, whose scripted engine draws at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.profiles.loader import load
from brim.workloads.formats import write
from brim.workloads.trace import Trace, TraceRequest
from tests.server.http_harness import Running

PROFILE = "a100-llama-3-8b"


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    chats, batch = tmp_path / "chats.csv", tmp_path / "batch.csv"
    write(Trace("chats", [TraceRequest(20_000_000 * i, 9 + i, 5 + i) for i in range(12)]), chats)
    write(Trace("batch", [TraceRequest(0, 30, 4)] * 6), batch)
    return [str(chats), "--offline", str(batch)]


def check(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["profile", "check", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_is_sent_as_its_class_and_compared(server: Running, traces: list[str], tmp_path: Path) -> None:
    before = len(server.loop.requests)
    served = tmp_path / "served.json"
    found = json.loads(
        check(
            *traces,
            *("--profile", PROFILE, "--url", server.url, "--ttft-ms", "700", "--json", "-o", str(served)),
        )
    )
    sent = server.loop.requests[before:]
    offline = [each for each in sent if each.task_class is TaskClass.OFFLINE]
    assert [len(each.prompt_token_ids) for each in offline] == [30] * 6
    assert {each.slo.ttft_ns for each in sent if each not in offline} == {700_000_000}
    assert found["requests"] == {"online": 12, "offline": 6}
    rows = {(row[0], row[1]): row[2:] for row in found["figures"]}
    assert len(rows) == 11
    assert all(value > 0 for (_, what), values in rows.items() if what == "tokens/s" for value in values)
    assert all(bare > 0 for _, bare, _ in rows.values())
    assert load(served).notes[-1].startswith("With the server's share")
    assert load(served).step_time.knees == load(PROFILE).step_time.knees


def test_a_table_is_printed(server: Running, traces: list[str]) -> None:
    text = check(traces[0], "--profile", PROFILE, "--url", server.url, "--policy", "vllm")
    assert "| online, ITL p99, ms |" in text
    assert "offline" not in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--slo-scale", "2"), "give --ttft-ms and --tpot-ms"),
        (("-o", "served"), "must end in .json"),
        (("-o", "absent/served.json"), "there is no folder absent; make it first"),
        (("--model", "nobody"), "the server answers 404"),
    ],
)
def test_wrong_use_is_said(server: Running, traces: list[str], flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(*traces, "--profile", PROFILE, "--url", server.url, *flags)


def test_what_is_not_installed_is_said(traces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brim.profiling.load_client", None)
    with pytest.raises(ConfigError, match=r'in a checkout of Brim, pip install "\.\[profiling\]"'):
        check(*traces, "--profile", PROFILE, "--url", "http://127.0.0.1:1")
