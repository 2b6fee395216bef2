"""`brim plan`, as typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import ConfigError, TraceError
from brim.profiles.loader import as_json, load
from brim.profiles.unevenness import Unevenness


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    rows = [f"{i / 10},{20 + 37 * i % 200},{5 + 13 * i % 30}" for i in range(60)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    return path


def plan(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["plan", *map(str, arguments), "--samples", "0", "--jobs", "1"], catch_exceptions=False
    )


def test_a_plan_names_the_replicas_the_cost_and_the_saving(trace: Path, tmp_path: Path):
    page = tmp_path / "plan.html"
    done = plan(
        *("--trace", trace, "--profile", "a100-opt-13b,a100-opt-66b", "--policy", "vllm,sarathi"),
        *("--tpot", 60, "--price", "a100-opt-13b=2,a100-opt-66b=3", "--html", page, "--json"),
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["best"] == "a100-opt-13b"
    assert [p["policy"] for p in found["plans"]] == ["vllm", "vllm", "sarathi", "sarathi"]
    by_profile = {p["profile"]: p for p in found["plans"][:2]}
    assert by_profile["a100-opt-13b"]["cost_per_hour"] == 2 * by_profile["a100-opt-13b"]["gpus"]
    assert by_profile["a100-opt-66b"]["cost_per_hour"] == 3 * by_profile["a100-opt-66b"]["gpus"]
    assert by_profile["a100-opt-66b"]["gpus_per_replica"] == 4
    assert page.read_text().startswith("<!doctype html>")


def test_no_profile_that_holds_is_exit_status_1(trace: Path):
    done = plan("--trace", trace, "--profile", "a100-opt-13b", "--ttft", 1)
    assert done.exit_code == 1
    assert "INFEASIBLE" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "a100-opt13b"], "did you mean a100-opt-13b"),
        (["--profile", "a100-opt-13b", "--price", "2.5"], "none of the profiles"),
        (["--profile", "a100-opt-13b", "--price", "a100-opt-13b=x"], "give it as NAME=2.5"),
        (["--profile", "a100-opt-13b", "--attainment", 99], "at most 1"),
        (["--profile", "a100-opt-13b", "--attainment", "nan"], "at most 1"),
        (["--profile", "a100-opt-13b", "--ttft", 0], "--ttft 0: give a target"),
        (["--profile", "a100-opt-13b", "--tpot", "inf"], "--tpot inf: give a target"),
        (["--profile", "a100-opt-13b", "--startup", "nan"], "--startup nan: give 0 to"),
        (["--profile", "a100-opt-13b", "--offline-tokens-per-day", "inf"], "inf: give 0 or more"),
        (["--profile", "a100-opt-13b", "--target-request-rate", -1], "is no pace"),
        (["--profile", "a100-opt-13b", "--price", "a100-opt-13b=-1"], "give 0 dollars or more"),
        (["--profile", "a100-opt-13b", "--price", "a100-opt-13b=nan"], "give 0 dollars or more"),
        (["--profile", "a100-opt-13b", "--price", "a100-opt-13b=1,a100-opt-13b=2"], "two prices, 1 and 2"),
        (["--profile", "a100-opt-13b", "--html", "/no/folder/x.html"], "there is no folder"),
        (["--profile", "a100-opt-13b", "--target-request-rate", "1e-300"], "give a number from 1e-6"),
        (["--profile", "a100-opt-13b", "--policy", "vlm"], "did you mean 'vllm'"),
        (["--profile", "a100-opt-13b", "--routing", "random"], "there is no routing"),
    ],
)
def test_wrong_use_says_what_to_do(trace: Path, arguments: list[object], message: str):
    with pytest.raises(ConfigError, match=message):
        plan("--trace", trace, *arguments)


def test_replicas_with_less_room_in_a_step_need_more(trace: Path):
    flags = ("--trace", trace, "--profile", "a100-opt-13b", "--policy", "vllm", "--tpot", 60, "--json")
    seats, tokens = ("--max-num-seqs", 4), ("--max-num-batched-tokens", 8)
    each = ((), seats, (*seats, *tokens))
    usual, few, small = (json.loads(plan(*flags, *more).stdout)["plans"][0]["replicas"] for more in each)
    assert usual < few < small


def test_too_few_to_search_on_are_refused(trace: Path):
    done = plan("--trace", trace, "--profile", "a100-opt-13b", "--max-requests", 4)
    assert done.exit_code == 2
    assert "greater than or equal to" in done.output


def test_a_trace_in_seconds_is_not_read_as_milliseconds(tmp_path: Path):
    path = tmp_path / "seconds.csv"
    path.write_text("timestamp,input_length,output_length\n0,100,10\n0.25,200,20\n")
    with pytest.raises(TraceError, match="these look like seconds: name the columns arrival_s, input_tokens"):
        plan("--trace", path, "--profile", "a100-opt-13b")


def test_lengths_without_arrivals_need_a_rate(tmp_path: Path):
    path = tmp_path / "lengths.csv"
    path.write_text("input_tokens,output_tokens\n100,10\n200,20\n")
    with pytest.raises(ConfigError, match="--target-request-rate"):
        plan("--trace", path, "--profile", "a100-opt-13b")


def of_classes(tmp_path: Path, *classes: str) -> Path:
    path = tmp_path / "classes.csv"
    rows = [f"{i},{100},{10},{each}" for i, each in enumerate(classes)]
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens,class", *rows]))
    return path


def test_offline_requests_of_a_trace_are_told_and_not_planned_for(tmp_path: Path):
    done = plan("--trace", of_classes(tmp_path, "online", "offline", "online"), "--profile", "a100-opt-13b")
    assert "classes: 2 requests" in done.stdout
    assert "1 offline request left out: to fit them in, give them as --offline" in done.stdout


def test_a_trace_of_offline_requests_alone_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="all its requests are offline"):
        plan("--trace", of_classes(tmp_path, "offline", "offline"), "--profile", "a100-opt-13b")


def test_requests_that_fit_in_no_replica_are_counted_as_misses(trace: Path):
    longer = sum(20 + 37 * i % 200 + 5 + 13 * i % 30 > 64 for i in range(60))
    done = plan("--trace", trace, "--profile", "a100-opt-13b", "--kv-tokens", 64, "--json")
    [one] = json.loads(done.stdout)["plans"]
    assert done.exit_code == 1
    assert one["too_long"] == longer > 0
    assert one["reachable_attainment"] == pytest.approx(1 - longer / 60)


def test_answers_that_are_cut_and_count_as_met_are_told(trace: Path):
    flags = ("--trace", trace, "--profile", "a100-opt-13b", "--tpot", 60, "--attainment", 0.2)
    told = plan(*flags, "--kv-tokens", 128).stdout
    assert "their answers are cut, end sooner than in the trace and may count as met" in told
    assert "are cut" not in plan(*flags).stdout


def test_a_backlog_of_documents_is_done_sooner_than_one_of_prompts(trace: Path, tmp_path: Path):
    """Prompts of 640 tokens, longer than the online ones; eight begin with the same 39 blocks of 16."""
    done_seconds = []
    for name in ("shared", "alone"):
        path = tmp_path / f"{name}.csv"
        first = [39 * (i // 8 if name == "shared" else i) for i in range(80)]
        rows = [f"640,5,{' '.join(map(str, range(at, at + 39)))}" for at in first]
        path.write_text("\n".join(["input_tokens,output_tokens,hash_ids_16", *rows]))
        flags = ("--trace", trace, "--profile", "a100-opt-13b", "--tpot", 60, "--offline", path, "--json")
        found = json.loads(plan(*flags).stdout)
        assert found["backlog"]["requests"] == 80
        assert found["plans"][0]["backlog_too_long"] == 0
        done_seconds.append(found["plans"][0]["offline"]["backlog"]["done_seconds"])
    assert done_seconds[0] < done_seconds[1] / 2


def test_who_has_no_price_is_told(trace: Path):
    done = plan(
        *("--trace", trace, "--profile", "a100-opt-13b,a100-opt-66b", "--tpot", 60),
        *("--price", "a100-opt-13b=2"),
    )
    assert "fewest GPUs: a100-opt-13b (--price was not given for a100-opt-66b)" in done.stdout


def test_a_profile_that_knows_of_late_steps_promises_less(trace: Path, tmp_path: Path):
    found = []
    for name, late in (("even", 1.0), ("late", 6.0)):
        profile = tmp_path / f"{name}.json"
        unevenness = Unevenness((0.0, 0.8, 1.0), (1.0, 1.0, late))
        profile.write_text(as_json(replace(load("a100-opt-13b"), unevenness=unevenness)))
        flags = ("--trace", trace, "--profile", profile, "--policy", "vllm", "--tpot", 60)
        found.append(json.loads(plan(*flags, "--json").stdout)["plans"][0])
    even, late = found
    assert late["replicas"] > even["replicas"]
