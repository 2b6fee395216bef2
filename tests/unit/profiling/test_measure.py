"""Measured profiles: an engine of known step times gives them back, and the local engine gives some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from brim.cli.main import app
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, StepTime, shape_of
from brim.core.plan import StepPlan, StepResult
from brim.engines.base import EngineCaps, Footprint
from brim.engines.scripted import ScriptedEngine
from brim.profiles.loader import Profile, as_json, load
from brim.profiling.engine_steps import FULL, QUICK, EngineSteps, Grid, Limits, Sizes, timed_steps
from brim.profiling.fitting import Row
from brim.profiling.on_engine import LEAST_TOKENS, Measurement

TRUE = StepTime(8_000_000_000, 5_000_000, ((256, 12_000_000),), 700, 2_000_000, 45_000, 3_000_000, 9_000)
FOOTPRINT = Footprint("an abacus", 10**12, 10**9, 1000)


def always(step: int) -> float:
    return 1.0


class TimedEngine:
    """Takes what `TRUE` says, times what `slower(step)` says, on a clock of its own."""

    def __init__(
        self,
        num_blocks: int = 16384,
        slower: Callable[[int], float] = always,
        footprint: Footprint | None = FOOTPRINT,
    ) -> None:
        self.caps = EngineCaps("timed", "m", num_blocks, 16, 8192, 100, footprint=footprint)
        self.now_ns = 0
        self.shapes: list[StepShape] = []
        self._slower = slower

    def begin(self, plan: StepPlan) -> None:
        assert all(row.samples for row in plan.rows())  # else finish() would not wait for the device
        self.shapes.append(shape_of(plan.rows(), 0, 0))

    def finish(self) -> StepResult:
        self.now_ns += round(TRUE.picoseconds(self.shapes[-1]) * self._slower(len(self.shapes)) / 1000)
        return StepResult(())

    def close(self) -> None:
        """Has nothing to give back."""

    def measured(self, grid: Grid = QUICK) -> Profile:
        return Measurement.of(self.steps(), grid, 256, 2048).run("x")

    def steps(self) -> EngineSteps:
        return EngineSteps(self, lambda: self.now_ns)


@pytest.mark.parametrize("grid", [QUICK, FULL])
def test_an_engine_of_known_step_times_gives_them_back(grid: Grid) -> None:
    profile = TimedEngine().measured(grid)
    assert profile.fit is not None
    assert profile.fit.held_back.mape < 1e-3
    assert set(profile.fit.by_kind) == {"decode", "prefill", "mixed"}
    assert profile.step_time.per_context_ps == pytest.approx(TRUE.per_context_ps, rel=0.02)
    assert profile.step_time.constant_ps == pytest.approx(TRUE.constant_ps, rel=0.02)


def test_hiccups_and_a_machine_that_gets_slower_do_not_bend_the_proportions() -> None:
    """Every ninth step takes five times as long, and all of them longer and longer: twice in the end."""
    total = Measurement.of(TimedEngine().steps(), QUICK, 256, 2048).num_steps
    bent = TimedEngine(slower=lambda step: (total + step) / total * (5 if step % 9 == 0 else 1))
    profile = bent.measured()
    slower = [profile.step_time.seconds(shape) / TRUE.seconds(shape) for shape in set(bent.shapes)]
    assert 1.4 < median(slower) < 1.8
    assert max(slower) / min(slower) < 1.25


def test_the_profile_says_what_was_measured_and_can_be_read_again(tmp_path: Path) -> None:
    profile = TimedEngine().measured()
    path = tmp_path / "x.json"
    path.write_text(as_json(profile))
    assert load(path) == profile
    assert profile.source.startswith("measured")
    assert (profile.gpu, profile.model, profile.kv_tokens()) == ("an abacus", "m", 16384 * 16)


def test_the_smallest_cache_that_is_advised_is_enough() -> None:
    assert TimedEngine(LEAST_TOKENS // 16).measured().fit is not None
    with pytest.raises(ConfigError, match=f"KV cache of {LEAST_TOKENS} tokens or more"):
        TimedEngine(10).measured()


def test_an_engine_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="runs no model"):
        TimedEngine(footprint=None).measured()


def test_a_step_that_fails_is_said() -> None:
    class Failing(TimedEngine):
        def finish(self) -> StepResult:
            return StepResult((), errors={"measured-0": "no such luck"})

    with pytest.raises(ConfigError, match=r"can't run a step of .* tokens: no such luck"):
        Failing().measured()


def test_memory_that_runs_out_is_said() -> None:
    class Small(TimedEngine):
        def begin(self, plan: StepPlan) -> None:
            raise RuntimeError("out of memory")

    with pytest.raises(ConfigError, match="out of memory; fewer --kv-tokens"):
        Small().measured()


SOME_SIZES = st.builds(
    Sizes, st.integers(0, 6), st.integers(1, 60), st.integers(0, 3), st.integers(2, 60), st.integers(0, 60)
).filter(lambda each: bool(each.decodes + each.prompts))


@given(st.lists(SOME_SIZES, min_size=1, max_size=4, unique_by=lambda each: each.shape))
def test_steps_read_only_what_was_written_and_have_the_sizes_they_are_timed_for(several: list[Sizes]) -> None:
    """The scripted engine can't read an unwritten slot, and no block is in two requests."""
    engine = ScriptedEngine(num_blocks=80, block_size=16, max_model_len=200)
    seen: list[StepShape] = []
    begin = engine.begin

    def watched(plan: StepPlan) -> None:
        seen.append(shape_of(plan.rows(), 0, 0))
        tables = [row.state.block_ids for row in plan.rows()]
        assert len({block for table in tables for block in table}) == sum(map(len, tables))
        begin(plan)

    engine.begin = watched  # type: ignore[method-assign]
    limits = Limits(requests=16, tokens=10_000, request_tokens=200, blocks=80, block_size=16)
    timed = timed_steps(EngineSteps(engine, iter(range(10**6)).__next__), several, 2, limits)
    assert [each.row.shape for each in timed] == [each.shape for each in several]
    measured = seen[-3 * len(several) :]  # before them the cache is filled
    assert sorted(measured) == sorted(
        limits.varied(each, tokens).shape for each in several for tokens in (-1, 0, 1)
    )


def test_every_round_times_every_step_in_an_order_of_its_own() -> None:
    engine = TimedEngine()
    limits = Limits(256, 2048, 8192, 16384, 16)
    sizes = QUICK.sizes(limits)
    timed_steps(engine.steps(), sizes, 3, limits)
    shapes = engine.shapes[-4 * len(sizes) :]
    rounds = [tuple(shapes[at : at + len(sizes)]) for at in range(0, len(shapes), len(sizes))]
    for tokens, found in zip((-2, -1, 0, 1), rounds, strict=True):
        assert sorted(found) == sorted(limits.varied(size, tokens).shape for size in sizes)
    assert [tuple(sorted(found)) == found for found in rounds] == [False] * 4


def test_chunks_vary_within_the_limits_and_full_steps_and_decodes_do_not() -> None:
    limits = Limits(requests=8, tokens=64, request_tokens=48, blocks=8, block_size=16)
    some, full, decodes = Sizes(2, 16, 1, 30, 0), Sizes(4, 16, 2, 30, 0), Sizes(4, 16, 0, 0, 0)
    assert limits.varied(some, 2) == some._replace(chunk=32)
    assert limits.varied(some, -2) == some._replace(chunk=28)
    assert limits.varied(Sizes(0, 0, 1, 48, 0), 1).chunk == 48  # a request may have no more
    assert limits.varied(Sizes(0, 0, 1, 2, 0), -1).chunk == 2  # a chunk of one token is a decode
    assert limits.varied(full, -2) == full
    assert limits.varied(decodes, 2) == decodes


def test_blocks_are_counted_as_they_are_taken() -> None:
    steps = EngineSteps(ScriptedEngine(num_blocks=9, block_size=4), lambda: 0)
    steps.fill(7)
    exact = Sizes(2, 5, 1, 6, 3)
    assert exact.blocks(4) == 7
    assert steps.took(exact) == (exact.shape, 0)


def test_a_grid_keeps_to_its_limits() -> None:
    limits = Limits(requests=20, tokens=300, request_tokens=600, blocks=64, block_size=16)
    found = FULL.sizes(limits)
    assert max(each.decodes + each.prompts for each in found) <= 20
    assert max(each.shape.new_tokens for each in found) <= 300
    assert max(each.longest for each in found) <= 600
    assert max(each.blocks(16) for each in found) <= 64
    assert {Row(each.shape, 1).kind for each in found} == {"decode", "prefill", "mixed"}


def test_the_local_engine_on_a_tiny_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the local engine is not installed (pip install 'brim[local]')")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path, trace = tmp_path / "mine.json", tmp_path / "trace.csv"
    limits = ["--dtype", "float32", "--kv-tokens", "2048", "--max-num-batched-tokens", "144"]
    limits += ["--max-num-seqs", "16"]
    run = CliRunner().invoke
    few = ["--quick", "--repeats", "2", "--threads", "1"]
    made = run(app, ["profile", "measure", *few, *limits, "-o", str(path)])
    assert made.exit_code == 0, made.output
    assert "sizes held back" in made.output
    assert "each the median of 2" in made.output
    profile = load(path)
    assert profile.kv_tokens() == 2048
    assert profile.kv_bytes_per_token == 2 * 4 * 2 * 32 * 4  # K and V, 4 layers, 2 heads of 32, float32
    assert profile.fit is not None
    assert profile.fit.held_back.rows >= 6
    rows = ("2023-11-16 18:15:46.68,40,4", "2023-11-16 18:15:46.72,30,5")
    trace.write_text("\n".join(("TIMESTAMP,ContextTokens,GeneratedTokens", *rows)))
    simulated = run(app, ["simulate", str(trace), "--profile", str(path), "--policy", "echo", "--json"])
    assert simulated.exit_code == 0, simulated.output
    assert json.loads(simulated.stdout)["profile"] == "mine"


@pytest.mark.parametrize(
    ("output", "message"), [("mine", "must end in .json"), ("file/mine.json", "give another --output")]
)
def test_a_wrong_output_is_refused_before_the_model_is_loaded(
    tmp_path: Path, output: str, message: str
) -> None:
    (tmp_path / "file").touch()
    made = CliRunner().invoke(app, ["profile", "measure", "-o", str(tmp_path / output)])
    assert isinstance(made.exception, ConfigError)
    assert message in str(made.exception)
