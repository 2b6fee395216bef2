"""The simulator beside a measured run: the same requests, the same limits, nothing of the result given."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.events import Event, Finished, FirstToken, Tokens
from brim.profiles.loader import Profile, load
from brim.profiling.measured import RTX_RUN, h100_tpots, rtx_host_seconds
from brim.profiling.replay import Outcome, replay
from brim.simulation.machine import Machine
from brim.simulation.run import Setup, simulate
from brim.workloads.formats import read
from brim.workloads.trace import Trace, TraceRequest

DATA = Path(__file__).parents[4] / "shared" / "data"
PROFILES, TRACE = DATA / "profiles", DATA / "traces/llmservingsim_sharegpt_llama-3.1-8b_300_10rps.csv.gz"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the published runs in {DATA}")


@pytest.fixture(scope="module")
def found():
    return replay(PROFILES, read(TRACE), load("rtxpro6000-llama-3.1-8b"))


@needs_data
def test_the_run_is_met_with_the_hosts_time_in_it(found):
    errors = found.hosted.errors(found.measured)
    assert abs(errors["tpot"]) <= 0.02
    assert abs(errors["ttft"]) <= 0.05
    assert abs(errors["makespan"]) <= 0.03


@needs_data
def test_the_measured_means_are_the_publishers(found):
    assert found.measured.ttft == pytest.approx(7.0972, abs=1e-4)
    assert found.measured.tpot == pytest.approx(0.0325, abs=1e-4)
    assert found.measured.e2e == pytest.approx(28.2007, abs=1e-4)


@needs_data
def test_without_the_hosts_time_the_run_is_too_short(found):
    assert 0.0005 < found.host_seconds < 0.002
    assert all(-0.15 < error < 0 for error in found.bare.errors(found.measured).values())


@needs_data
def test_what_the_step_time_lacks_is_what_the_host_is_said_to_take():
    step_time = load("rtxpro6000-llama-3.1-8b").step_time
    longer = replace(step_time, constant_ps=step_time.constant_ps + 10**9)
    lacking = rtx_host_seconds(PROFILES, step_time) - rtx_host_seconds(PROFILES, longer)
    assert lacking == pytest.approx(1e-3)


@needs_data
def test_another_trace_is_refused():
    with pytest.raises(ConfigError, match="its lengths differ"):
        replay(PROFILES, read(TRACE).first(299), load("rtxpro6000-llama-3.1-8b"))


@needs_data
def test_measured_tpots_on_h100_are_met_within_five_percent():
    pairs = h100_tpots(PROFILES, load("h100-llama-3-8b").step_time)
    errors = [abs(predicted / measured - 1) for measured, predicted in pairs]
    assert len(errors) == 21
    assert sum(errors) / len(errors) <= 0.05


@needs_data
def test_the_command_prints_predicted_beside_measured():
    command = ["profile", "replay", "--data", str(PROFILES), "--trace", str(TRACE)]
    lines = CliRunner().invoke(app, command).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["mean", "ttft", "tpot", "e2e", "makespan", "host"]
    assert lines[1].split()[1] == "7.0972"


LIMITS = {"max_num_seqs": 24, "max_num_batched_tokens": 512}
HOST_PS = 700_000_000


def made_run(folder: Path, trace: Trace, profile: Profile) -> None:
    """Writes files as the published run has them, of a simulated one with `HOST_PS` of host time a step."""
    config = SchedulerConfig(
        num_blocks=4000,
        block_size=16,
        max_model_len=4096,
        enable_prefix_caching=True,
        policy="vllm",
        **LIMITS,
    )
    machine = Machine(profile.step_time, profile.target_forward_tokens, HOST_PS)
    first, last, drawn = {}, {}, Counter()

    def observe(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, FirstToken):
                first[int(event.request_id)] = event.now_ns / 1e9
            elif isinstance(event, Finished):
                last[int(event.request_id)] = event.now_ns / 1e9
            elif isinstance(event, Tokens):
                drawn[event.now_ns // 10**9] += len(event.states)

    simulate(trace, Setup(config, machine, depth=2), observe=observe)
    start = folder / RTX_RUN
    start.parent.mkdir()
    requests = ["queued_ts,first_token_ts,last_token_ts,input_toks,output_toks"]
    requests += [
        f"{r.arrival_ns / 1e9!r},{first[i]!r},{last[i]!r},{r.input_tokens},{r.output_tokens}"
        for i, r in enumerate(trace.requests)
    ]
    seconds = ["gen_throughput", *(str(drawn[second]) for second in range(max(drawn) + 1))]
    Path(f"{start}_requests.csv.gz").write_bytes(gzip.compress("\n".join(requests).encode()))
    Path(f"{start}_timeseries.csv").write_text("\n".join(seconds))
    Path(f"{start}_meta.json").write_text(json.dumps({"engine_kwargs": LIMITS}))


def test_a_made_run_is_met_and_its_host_time_found(tmp_path):
    profile = load("rtxpro6000-llama-3.1-8b")
    trace = Trace("t", [TraceRequest(40_000_000 * i, 100 + 9 * i, 500 + 20 * i) for i in range(30)])
    made_run(tmp_path, trace, profile)
    found = replay(tmp_path, trace, profile)
    assert found.host_seconds == pytest.approx(HOST_PS / 1e12, rel=0.15)
    assert max(map(abs, found.hosted.errors(found.measured).values())) < 0.01
    assert all(error < -0.02 for error in found.bare.errors(found.measured).values())


def test_errors_are_fractions_of_what_was_measured():
    assert Outcome(1.1, 0.9, 2, 4).errors(Outcome(1, 1, 2, 8)) == pytest.approx(
        {"ttft": 0.1, "tpot": -0.1, "e2e": 0, "makespan": -0.5}
    )


def test_missing_stamps_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"requests\.csv\.gz is missing"):
        replay(tmp_path, Trace("t", []), load("rtxpro6000-llama-3.1-8b"))
