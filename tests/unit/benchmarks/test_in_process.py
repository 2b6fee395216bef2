"""Engines run under a clock that is told: who enters when, how long steps take; the whole way to a page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.in_process import Arrival, LocalEngine, drive

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.events import Event, Tokens
from brim.core.plan import StepPlan
from brim.core.request import Request, SamplingParams
from brim.core.scheduler import Scheduler
from brim.engines.scripted import ScriptedEngine

STEP_SECONDS = 0.5
ROOT = Path(__file__).parents[3]


class ToldClock:
    def __init__(self) -> None:
        self.now, self.idle = 100.0, 0.0

    def seconds(self) -> float:
        return self.now

    def idle_until(self, at: float) -> None:
        self.idle += at - self.now
        self.now = at

    def now_ns(self) -> int:
        return round(self.now * 1e9)


class SlowEngine(ScriptedEngine):
    """Its steps take half a second of a clock that is told."""

    def __init__(self, clock: ToldClock) -> None:
        super().__init__(16, 4)
        self._told = clock

    def begin(self, plan: StepPlan) -> None:
        super().begin(plan)
        self._told.now += STEP_SECONDS


def run(arrivals: dict[str, float], goes_on: Callable[[float], bool]) -> tuple[ToldClock, LocalEngine, dict]:
    """Answers of three tokens to prompts of four; returns when each request's tokens came."""
    clock, came = ToldClock(), {name: [] for name in arrivals}

    def observe(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Tokens):
                for state in event.states:
                    came[state.request.request_id].append(event.now_ns / 1e9)

    config = SchedulerConfig(num_blocks=16, block_size=4, max_model_len=32)
    engine = LocalEngine(SlowEngine(clock), Scheduler(config), clock.now_ns, observe)

    def enter(name: str) -> Callable[[], None]:
        return lambda: engine.add(Request(name, (1, 2, 3, 4), SamplingParams(max_tokens=3)))

    coming = [Arrival(at, enter(name)) for name, at in arrivals.items()]
    drive(engine, coming, clock, lambda: goes_on(clock.now))
    return clock, engine, came


def test_everybody_enters_at_the_next_step_and_idle_time_is_jumped_over() -> None:
    clock, engine, came = run({"late": 110.0, "first": 100.0, "during": 100.6}, lambda now: True)
    assert came["first"] == [100.5, 101.0, 101.5]
    assert came["during"] == [101.5, 102.0, 102.5]
    assert came["late"] == [110.5, 111.0, 111.5]
    assert clock.idle == pytest.approx(110 - 102.5)
    assert [step.took_ns for step in engine.steps] == [500_000_000] * len(engine.steps)
    assert engine.steps[0].shape.new_tokens == 4
    assert (engine.steps[1].shape.num_decodes, engine.steps[1].shape.decode_context) == (1, 5)
    assert engine.scheduler_ns == 0


def test_it_ends_when_it_is_told_to() -> None:
    clock, _, came = run({"only": 100.0}, lambda now: now < 101)
    assert clock.now == 101.0
    assert len(came["only"]) == 2


def test_an_engine_with_steps_under_way_is_refused() -> None:
    engine = ScriptedEngine(16, 4, depth=2)
    with pytest.raises(ConfigError, match="one step at a time"):
        LocalEngine(engine, Scheduler(SchedulerConfig(16, 4, 32)), lambda: 0, lambda events: None)


@pytest.mark.slow
def test_the_simulator_beside_the_local_engine(tmp_path: Path) -> None:
    """The whole way on a tiny model: a profile, three runs, and a section of the page."""
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## Engine: local\n\nwhat was there\n")
    command = [sys.executable, "-m", "benchmarks.engine_fidelity", "--engine", "local", "--quick"]
    done = subprocess.run(
        [*command, "--lines", "60", "--page", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    text = page.read_text()
    assert "what was there" not in text
    assert text.count("| online, TTFT p99, ms |") == 3
    assert text.count("| offline, tokens/s |") == 2
