"""`brim simulate` and `brim compare`, as typed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import BrimError, ConfigError, TraceError
from brim.profiles.loader import as_json, load
from brim.profiles.unevenness import Unevenness

PROFILE = "a100-llama-3-8b"
CLASS_FIELDS = [
    *("requests", "finished", "refused", "cut", "throughput_requests_per_second", "output_tokens_per_second"),
    *("goodput_requests_per_second", "slo_attainment", "ttft_seconds", "itl_seconds", "tpot_seconds"),
    *("e2e_seconds", "normalized_latency_seconds_per_token", "prefix_hit_rate", "recomputed_tokens"),
]
RUN_FIELDS = [
    *("policy", "duration_seconds", "steps", "simulation_wall_seconds", "online", "offline", "kv", "compute"),
    *("allocation_failures", "preemptions", "scheduling_seconds_per_step"),
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    rows = [f"{i / 4},{100 + 37 * i % 900},{5 + 13 * i % 90}" for i in range(40)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    return path


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.csv"
    path.write_text("input_tokens,output_tokens\n100,10\n200,20\n300,30\n")
    return path


def brim(*arguments: Any) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def simulated(*arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(brim(*arguments, "--profile", PROFILE, "--json"))
    return found


def without_wall(report: dict[str, Any]) -> dict[str, Any]:
    timed = ("simulation_wall_seconds", "scheduling_seconds_per_step")
    runs = [{name: value for name, value in run.items() if name not in timed} for run in report["runs"]]
    return {**report, "runs": runs}


def test_the_json_has_the_documented_fields(trace: Path) -> None:
    report = simulated("simulate", trace, "--kv-tokens", 3200, "--max-model-len", 2000)
    about = ["trace", "trace_note", "profile", "profile_kind", "kv_blocks", "block_size", "seed", "runs"]
    assert [*report] == about
    assert report["profile_kind"] == "fitted"
    assert simulated("simulate", trace, "--scale", 2)["trace_note"] == "rate scaled by 2"
    assert (report["kv_blocks"], report["block_size"], report["profile"]) == (200, 16, PROFILE)
    [run] = report["runs"]
    assert [*run] == RUN_FIELDS
    assert [*run["online"]] == CLASS_FIELDS
    assert [*run["online"]["ttft_seconds"]] == ["mean", "p50", "p90", "p95", "p99"]
    assert [*run["kv"]] == ["written_mean", "promised_mean", "lent_mean"]
    assert [*run["compute"]] == ["forward_over_tfs_mean", "busy_share"]
    assert run["offline"] is None


def test_the_same_command_gives_the_same_figures(trace: Path) -> None:
    asked = ("simulate", trace, "--arrivals", "poisson:9", "--seed", 3, "--lengths", "noisy")
    assert without_wall(simulated(*asked)) == without_wall(simulated(*asked))
    assert without_wall(simulated(*asked)) == without_wall(simulated(*asked, "--no-skip"))


def test_the_table_says_that_it_is_simulated_and_on_what(trace: Path) -> None:
    text = brim("simulate", trace, "--profile", PROFILE, "--scale", 2)
    assert f"simulated on {PROFILE}: fitted step times" in text
    assert "rate scaled by 2" in text
    assert "prefix caching off: the trace does not say which prompts begin alike" in text
    assert "online: 40 requests" in text


def test_a_trace_is_simulated_from_its_first_request_on(trace: Path, lengths: Path, tmp_path: Path) -> None:
    """One that begins at ten o'clock, beside offline work of the same clock and beside a backlog."""
    head, *rows = trace.read_text().splitlines()
    later = [f"{36_000 + float(at)},{rest}" for at, _, rest in (row.partition(",") for row in rows)]
    late, batch, early_batch = (tmp_path / f"{name}.csv" for name in ("late", "batch", "early_batch"))
    late.write_text("\n".join([head, *later]))
    batch.write_text("\n".join([head, "36002,100,10"]))
    early_batch.write_text("\n".join([head, "2,100,10"]))
    for early, moved in (((), ()), ((early_batch,), (batch,)), ((lengths,), (lengths,))):
        usual, found = (
            without_wall(simulated("simulate", one, *(("--offline", *more) if more else ())))
            for one, more in ((trace, early), (late, moved))
        )
        assert found["runs"] == usual["runs"]
        assert "first request on, which arrives at 36000 s" in found["trace_note"]


def test_answers_that_are_cut_are_counted(tmp_path: Path) -> None:
    """1024 tokens of KV leave 924 to an answer of 5000; the one of 924 is whole, and 1100 in are refused."""
    long = tmp_path / "long.csv"
    rows = ["0,100,5000", "1,100,5000", "2,100,924", "3,1100,5000"]
    long.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    asked = ("compare", long, "--policy", "vllm,econoserve", "--kv-tokens", 1024, "--bound")
    for run in simulated(*asked)["runs"]:
        own = run["online"]
        assert (own["requests"], own["finished"], own["refused"], own["cut"]) == (4, 3, 1, 2)
    text = brim(*asked, "--profile", PROFILE)
    assert "online: 4 requests, 1 of them refused, 2 answers cut" in text
    assert "2 answers were cut to what" in text
    assert simulated("simulate", long, "--max-output-tokens", 10)["runs"][0]["online"]["cut"] == 4


@pytest.mark.parametrize("width", [None, 80, 20])
def test_no_number_is_cut(trace: Path, monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    """In a pipe there is one table; on a narrow terminal there are several."""
    policies = ["vllm", "sarathi", "econoserve", "priority", "echo", "brim", "bs", "orca"]
    if width is not None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(width))
    text = brim("compare", trace, "--policy", ",".join(policies), "--profile", PROFILE)
    assert "…" not in text
    assert all(policy in text for policy in policies)
    assert (text.count("E2E p99, s") > 1) == (width is not None)


def test_offline_requests_come_beside(trace: Path, lengths: Path) -> None:
    [run] = simulated("simulate", trace, "--offline", lengths)["runs"]
    assert (run["online"]["finished"], run["offline"]["finished"]) == (40, 3)


def test_events_are_written_one_a_line(trace: Path, tmp_path: Path) -> None:
    simulated("simulate", trace, "--events", tmp_path / "events")
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert sum(event["event"] == "finished" for event in events) == 40
    assert not [event for event in events if event["event"] == "quiet_steps"]


def test_policies_are_compared_with_the_bound(trace: Path) -> None:
    report = simulated("compare", trace, "--policy", "vllm,priority", "--policy", "sarathi", "--bound")
    assert [run["policy"] for run in report["runs"]] == ["vllm", "priority", "sarathi", "bound"]
    assert all([*run] == RUN_FIELDS for run in report["runs"])
    *real, best = [run["online"]["e2e_seconds"]["mean"] for run in report["runs"]]
    assert best <= min(real)


@pytest.mark.parametrize("form", ["png", "svg"])
def test_rates_are_swept_and_drawn(trace: Path, tmp_path: Path, form: str) -> None:
    picture = tmp_path / f"p.{form}"
    report = simulated("compare", trace, "--policy", "vllm", "--rates", "1,8", "--plot", picture, "--bound")
    assert [(run["policy"], run["rate_requests_per_second"]) for run in report["runs"]] == [
        *(("vllm", 1), ("bound", 1)),
        *(("vllm", 8), ("bound", 8)),
    ]
    assert picture.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_lengths_alone_are_swept_with_poisson_arrivals(lengths: Path) -> None:
    text = brim("compare", lengths, "--policy", "vllm", "--rates", "2", "--profile", PROFILE)
    assert "Poisson 2/s" in text


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--policy", "vlm"], ConfigError, "did you mean 'vllm'"),
        (["--kv-tokens", 9], ConfigError, "less than one block"),
        (["--kv-tokens", 64], ConfigError, "raise --max-model-len or --kv-tokens"),
        (["--rate", 1, "--scale", 2], ConfigError, "not both"),
        (["--slo-scale", 2, "--e2e-s", 2], ConfigError, "give one of them"),
        (["--depth", 3], ConfigError, "give 1, or 2"),
        (["--lengths", "magic"], ConfigError, "history, oracle, noisy or limit"),
        (["--e2e-s", "1e300"], ConfigError, r"--e2e-s must be more than 0, and 1e\+06 at most, not 1e\+300"),
        (["--rate", "1e-300"], ConfigError, "give a number from 1e-6 to 1e9"),
        (["--scale", "1e300"], ConfigError, r"--scale must be more than 0, and 1e\+09 at most"),
        (["--kv-tokens", 10**400], ConfigError, r"--kv-tokens must be more than 0, and 1e\+08 at most"),
        (["--ttft-ms", "nan"], ConfigError, "--ttft-ms must be more than 0"),
        (["--step-overhead-us", -1], ConfigError, "--step-overhead-us must be 0 or more"),
        (["--measure-from", 5, "--measure-until", 5], ConfigError, "must be later"),
        (["--arrivals", "posson:5"], ConfigError, "poisson:RATE"),
        (["--events", "absent/events"], ConfigError, "there is no folder absent"),
        (["--profile", "a100-llama-3"], ConfigError, "did you mean"),
    ],
)
def test_what_is_wrong_is_said(
    trace: Path, arguments: list[Any], kind: type[BrimError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        brim("simulate", trace, "--profile", PROFILE, *arguments)


def test_a_trace_without_arrivals_needs_some(lengths: Path) -> None:
    with pytest.raises(ConfigError, match="--arrivals poisson:5"):
        brim("simulate", lengths, "--profile", PROFILE)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="absent"):
        brim("simulate", tmp_path / "absent.csv", "--profile", PROFILE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "p.jpg"], r"ends in \.png or \.svg"),
        (["--plot", "absent/p.png"], "there is no folder absent"),
        (["--rates", "1,fast"], "numbers above 0 with commas"),
        (["--rates", "0"], "numbers above 0"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_said(trace: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        brim("compare", trace, "--policy", "vllm", "--profile", PROFILE, *arguments)


def test_without_matplotlib_it_says_what_to_install(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r'in a checkout of Brim, pip install "\.\[plot\]"'):
        brim("compare", trace, "--policy", "vllm", "--profile", PROFILE, "--plot", "p.png")


def test_steps_are_as_uneven_as_the_profile_says_and_no_scheduler_beats_the_bound(
    trace: Path, tmp_path: Path
) -> None:
    profile, mine = load(PROFILE), tmp_path / "mine.json"
    mine.write_text(as_json(replace(profile, unevenness=Unevenness((0.0, 0.9, 1.0), (0.8, 1.1, 12.0)))))
    flags = ("--bound", "--policy", "vllm", "--max-model-len", 2000, "--json", "--profile")
    even, uneven = (json.loads(brim("compare", trace, *flags, each))["runs"] for each in (PROFILE, mine))
    gaps = [runs[0]["online"]["itl_seconds"] for runs in (even, uneven)]
    assert gaps[1]["p99"] > 1.5 * gaps[0]["p99"]
    assert gaps[1]["p50"] == pytest.approx(gaps[0]["p50"], rel=0.1)
    ran, limit = uneven
    assert limit["policy"] == "bound"
    assert limit["online"]["tpot_seconds"]["mean"] <= ran["online"]["tpot_seconds"]["mean"]
