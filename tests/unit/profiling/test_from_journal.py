"""A profile from a journal: the steps of a host of known step times give them back."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import ConfigError, TraceError
from brim.core.estimators.step_time import StepShape, StepTime
from brim.profiles.loader import load
from brim.profiles.unevenness import Unevenness
from brim.profiling.from_journal import _over_the_fit, profile_of
from brim.workloads.journals import Journal, Step, load_journal
from tests.helpers import request
from tests.journals import STALL_NS, TimedHost, WritingHost

TRUE = StepTime(8_000_000_000, 5_000_000, ((128, 12_000_000),), 700, 2_000_000, 45_000)
SHAPES = [StepShape(8, 0, 8, 2400), StepShape(128, 128 * 129 // 2), StepShape(208, 200 * 201 // 2, 8, 2400)]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> TimedHost:
    return TimedHost(tmp_path_factory.mktemp("journal") / "brim.77", TRUE).busy(250, seed=1)


@pytest.fixture
def journal(host: TimedHost) -> Path:
    return host._path


def brim(*words: Any) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_known_step_times_come_back(host: TimedHost, journal: Path) -> None:
    profile = profile_of(load_journal(journal), "mine")
    assert profile.fit is not None
    assert profile.fit.held_back.mape < 0.02
    for shape in SHAPES:
        assert profile.step_time.seconds(shape) == pytest.approx(TRUE.seconds(shape), rel=0.03)
    assert profile.kv_tokens() == 400 * 16
    assert profile.unevenness is not None
    assert profile.unevenness.times[0] > 0.9
    assert profile.unevenness.times[-1] < 1.2  # without stalls
    assert host.stalls > 2
    lost = f"{host.stalls} of them took over 5 times their like ({host.stalls * STALL_NS / 1e9:.0f}."
    assert profile.notes[1].startswith(lost)


def test_the_gpus_are_those_of_the_engine_or_as_given(tmp_path: Path) -> None:
    """A journal of before they were recorded, or of an engine that does not tell, needs the flag."""
    for gpus, flags, expected in ((4, (), 4), (4, ("--tensor-parallel", 2), 2), (None, (), 1)):
        path, output = tmp_path / f"brim.{gpus}{expected}", tmp_path / "mine.json"
        host = WritingHost(path, gpus=gpus)
        for i in range(1, 30):
            host.add(request(f"r{i}", i, 1 + i % 7, arrival_ns=host.now_ns))
            host.watched_step()
        host.serve()
        if gpus is None:
            path.write_text(path.read_text().replace(',"gpus":null', "", 1))
        told = brim("profile", "from-journal", path, "-o", output, *flags)
        assert load(output).tensor_parallel == expected
        assert ("does not tell how many GPUs" in told) == (gpus is None)


def test_unevenness_is_what_changes_from_step_to_step_and_in_the_mean_nothing() -> None:
    """The second half of all steps takes twice as long, one in ten of all half as long again."""
    draw = random.Random(5)
    late = [draw.random() < 0.1 for _ in range(4000)]
    slow = [1 + (place >= 2000) for place in range(4000)]
    usual = round(TRUE.seconds(SHAPES[0]) * 1e9)
    steps = [Step(SHAPES[0], round(usual * s * (1.5 if x else 1))) for s, x in zip(slow, late, strict=True)]
    ratios = _over_the_fit(steps, TRUE)
    assert sum(ratios) / len(ratios) == pytest.approx(1.0)
    found = Unevenness.of(ratios)
    assert found.at(0.5) == pytest.approx(0.97, abs=0.05)
    assert 1.2 < found.at(0.95) < 1.55


def test_two_commands_tell_what_another_policy_would_gain(tmp_path: Path, journal: Path) -> None:
    output = tmp_path / "mine.json"
    told = brim("profile", "from-journal", journal, "-o", output)
    assert load(output).name == "mine"
    command = shlex.split(told.splitlines()[-1])
    assert command[:3] == ["brim", "compare", str(journal)]
    runs = json.loads(brim(*command[1:], "--json"))["runs"]
    assert [run["policy"] for run in runs] == ["vllm", "brim"]
    assert [run["online"]["requests"] + run["offline"]["requests"] for run in runs] == [250, 250]
    assert all(run["online"]["slo_attainment"] is not None for run in runs)


def test_the_command_has_the_limits_and_targets_of_the_server(tmp_path: Path, journal: Path) -> None:
    found = json.loads(brim("profile", "from-journal", journal, "-o", tmp_path / "mine.json", "--json"))
    flags = " ".join(found["command"][found["command"].index("--max-model-len") :])
    assert flags == (
        "--max-model-len 1024 --depth 1 --target-forward-tokens 256 --max-num-seqs 24 "
        "--max-num-batched-tokens 256 --ttft-ms 500 --tpot-ms 50"
    )
    assert found["served"]["ttft_seconds"]["p50"] >= TRUE.seconds(StepShape(1, 1))
    assert found["name"] == "mine"


def test_a_host_without_prefix_caching_is_simulated_so(tmp_path: Path) -> None:
    host = WritingHost(tmp_path / "brim.1", enable_prefix_caching=False)
    for i in range(1, 30):
        host.add(request(f"r{i}", i, 1 + i % 7, arrival_ns=host.now_ns))
        host.watched_step()
    host.serve()
    output = tmp_path / "mine.json"
    found = json.loads(brim("profile", "from-journal", tmp_path / "brim.1", "-o", output, "--json"))
    assert "--no-enable-prefix-caching" in found["command"]
    assert found["command"][found["command"].index("--depth") + 1] == "2"


def test_an_empty_file_is_told_to_be_no_journal(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(TraceError, match="the file is empty, or names nothing: give a journal of decisions"):
        load_journal(tmp_path / "empty")


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps of 0 sizes are too few"):
        profile_of(Journal(), "mine")
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        brim("profile", "from-journal", tmp_path / "j", "-o", tmp_path / "mine.yaml")
