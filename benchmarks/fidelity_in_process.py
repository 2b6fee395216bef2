"""Engines of `engine_fidelity` in this process, under the clock of its processor."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.clocks import ProcessorClock
from benchmarks.in_process import Arrival, Driven, LocalEngine, VllmEngine, drive
from tests.plugins.vllm import classes, models

from brim.core.estimators.step_time import StepShape
from brim.core.events import Event, Tokens
from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from brim.profiles.loader import Profile, as_json
from brim.profiling.against_server import beside, rows
from brim.profiling.engine_steps import EngineSteps, Grid, Steps
from brim.profiling.fitting import Row
from brim.profiling.from_journal import step_time_of
from brim.profiling.load_client import Ask, asks_of
from brim.profiling.on_engine import Measurement
from brim.profiling.vllm_steps import VllmSteps, vllm_engine
from brim.simulation.machine import Machine
from brim.simulation.run import Setup
from brim.workloads.journals import Step
from brim.workloads.trace import NANOSECONDS, Trace

AS_THEY_WERE = "with the run's own steps"
Targets = Mapping[str, float]  # such as ttft_ms


@dataclass(frozen=True, slots=True)
class ReplayedMachine(Machine):
    """Each step takes so many times what the step time says, in the order in which steps did."""

    ratios: Iterator[float] = field(default_factory=lambda: repeat(1.0))

    def picoseconds(self, shape: StepShape, num_sequences: int) -> int:
        return round(Machine.picoseconds(self, shape, num_sequences) * next(self.ratios))


def replayed(steps: Sequence[Step], setup: Setup) -> Setup:
    """On a machine whose steps take what these took: in the mean of each size, and in their unevenness."""
    step_time = step_time_of(steps)
    ratios = [step.took_ns * 1e3 / step_time.picoseconds(step.shape) for step in steps]
    again = chain.from_iterable(repeat(ratios))
    machine = ReplayedMachine(step_time, setup.machine.target_forward_tokens, ratios=again)
    return replace(setup, machine=machine, skip=False)


class InProcess:
    """One engine. Its clock stands still while nobody runs, and while others have the processor."""

    def __init__(self, grid: Grid) -> None:
        self._clock, self._grid = ProcessorClock(), grid

    def measure(self) -> Profile:
        """As `brim profile measure` does."""
        raise NotImplementedError

    def compare(
        self, trace: Trace, make: Callable[[], Setup], profile: Profile, targets: Targets
    ) -> list[str]:
        """The trace served with the policy of the setup, beside its simulation."""
        asks = asks_of(trace)
        gc.collect()
        gc.freeze()  # as servers do
        with self._clock.told_to_all():
            seconds, engine, note = self._serve(asks, make(), targets)
        counts = Counter(str(each.task_class) for each in trace.requests)
        told = " and ".join(f"{count} {name}" for name, count in sorted(counts.items(), reverse=True))
        return [
            f"{told} requests in {seconds:.0f} s of the processor's time.{note}",
            "",
            *_steps_by_kind(engine.steps, profile),
            "",
            *rows(beside(asks, seconds, trace, make, partial(replayed, engine.steps)), AS_THEY_WERE),
        ]

    def _serve(self, asks: Sequence[Ask], setup: Setup, targets: Targets) -> tuple[float, Driven, str]:
        """Returns how long it took, what ran it, and what else there is to say."""
        raise NotImplementedError

    def _now_ns(self) -> int:
        return round(self._clock.seconds() * NANOSECONDS)

    def _profile(self, steps: Steps, max_num_seqs: int, max_num_batched_tokens: int) -> Profile:
        measurement = Measurement.of(steps, self._grid, max_num_seqs, max_num_batched_tokens)
        with self._clock.told_to_all():
            return measurement.run("measured")

    def _drive(
        self, engine: Driven, asks: Sequence[Ask], enter: Callable[[int], None], start: float, setup: Setup
    ) -> float:
        """Until requests count no more, and on until all that is online is done; returns how long it took."""
        assert setup.measure_until_ns is not None
        until, online = setup.measure_until_ns / NANOSECONDS, [ask for ask in asks if not ask.offline]

        def goes_on() -> bool:
            return self._clock.seconds() - start < until or not all(ask.done for ask in online)

        arrivals = [Arrival(start + ask.at, partial(enter, number)) for number, ask in enumerate(asks)]
        drive(engine, arrivals, self._clock, goes_on)
        return self._clock.seconds() - start


class LocalInProcess(InProcess):
    def __init__(self, engine: Engine, grid: Grid, limits: tuple[int, int]) -> None:
        super().__init__(grid)
        self._engine, self._limits = engine, limits

    def measure(self) -> Profile:
        return self._profile(EngineSteps(self._engine, self._now_ns), *self._limits)

    def _serve(self, asks: Sequence[Ask], setup: Setup, targets: Targets) -> tuple[float, Driven, str]:
        start = self._clock.seconds()
        start_ns = round(start * NANOSECONDS)
        slo = SLO(**{name.replace("_ms", "_ns"): round(1e6 * value) for name, value in targets.items()})

        def observe(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Tokens):
                    for state in event.states:
                        ask = asks[int(state.request.request_id)]
                        ask.token_times.append((event.now_ns - start_ns) / NANOSECONDS)

        engine = LocalEngine(self._engine, Scheduler(setup.config, setup.policy), self._now_ns, observe)

        def enter(number: int) -> None:
            ask = asks[number]
            engine.add(request_of(str(number), ask, start_ns + round(ask.at * NANOSECONDS), slo))

        seconds = self._drive(engine, asks, enter, start, setup)
        each = engine.scheduler_ns / max(len(engine.steps), 1) / 1e6
        note = f" {each:.2f} ms of each step are the scheduler's, which the profile does not hold."
        return seconds, engine, note


def request_of(name: str, ask: Ask, arrival_ns: int, slo: SLO) -> Request:
    """`slo` is for those online."""
    sampling = SamplingParams(max_tokens=ask.max_tokens, temperature=0.0)
    if ask.offline:
        return Request(name, tuple(ask.prompt), sampling, TaskClass.OFFLINE, arrival_ns)
    return Request(name, tuple(ask.prompt), sampling, TaskClass.ONLINE, arrival_ns, slo=slo)


class VllmInProcess(InProcess):
    """`folder` is for the profile that Brim starts from."""

    def __init__(self, engine: Any, grid: Grid, folder: Path) -> None:
        super().__init__(grid)
        self._engine, self._file = engine, folder / "measured.json"

    def measure(self) -> Profile:
        steps = VllmSteps(self._engine, self._now_ns)
        try:
            profile = self._profile(steps, steps.max_num_seqs, steps.max_num_batched_tokens)
        finally:
            steps.close()
        self._file.write_text(as_json(profile))
        return profile

    def _serve(self, asks: Sequence[Ask], setup: Setup, targets: Targets) -> tuple[float, Driven, str]:
        policy = setup.config.policy
        brim = {"policy": policy, "profile": str(self._file), "strict": True}
        stock = {"policy": "stock"}
        self._engine.engine_core.engine_core.scheduler.brim_configure(stock if policy == "vllm" else brim)
        start, day = self._clock.seconds(), time.time()

        def take(name: str, count: int) -> None:
            asks[int(name)].token_times += [self._clock.seconds() - start] * count

        engine = VllmEngine(self._engine, self._now_ns, take)

        def enter(number: int) -> None:
            ask = asks[number]
            facts = {"task_class": "offline"} if ask.offline else dict(targets)
            engine.add(str(number), ask, facts, day + ask.at)

        seconds = self._drive(engine, asks, enter, start, setup)
        engine.close()
        return seconds, engine, ""


@contextmanager
def opened(
    engine: str, model: str, folder: Path, grid: Grid, kv_blocks: int, limits: Mapping[str, int]
) -> Iterator[InProcess]:
    """`limits` are block_size, max_model_len, max_num_seqs and max_num_batched_tokens."""
    path = str(models.ensure(model))
    if engine == "vllm":
        flags = ["--dtype", "float32", "--enforce-eager", "--num-gpu-blocks-override", str(kv_blocks)]
        flags += [
            part for name, value in limits.items() for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        flags += ["--scheduler-cls", classes.BRIM.replace(":", ".")]
        flags += ["--additional-config", '{"brim": {"policy": "stock"}}']
        with vllm_engine(path, flags) as llm:
            yield VllmInProcess(llm, grid, folder)
        return
    import torch

    from brim.engines.local.load import load

    torch.set_num_threads(1)
    sizes = {name: limits[name] for name in ("block_size", "max_model_len")}
    local, _ = load(path, dtype="float32", device="cpu", num_blocks=kv_blocks, **sizes)
    try:
        yield LocalInProcess(local, grid, (limits["max_num_seqs"], limits["max_num_batched_tokens"]))
    finally:
        local.close()


def _steps_by_kind(steps: Sequence[Step], profile: Profile) -> Iterator[str]:
    """What they took in the mean, and what they would by the profile."""
    yield "| steps | | tokens | took, ms | by the profile | error |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    kinds: dict[str, list[Step]] = {"decode": [], "mixed": [], "prefill": []}
    for step in steps:
        kinds[Row(step.shape, 0.0).kind].append(step)
    for kind, some in kinds.items():
        if some:
            took = sum(step.took_ns for step in some) / len(some) / 1e6
            told = 1e3 * sum(profile.step_time.seconds(step.shape) for step in some) / len(some)
            tokens = sum(step.shape.new_tokens for step in some) / len(some)
            figures = f"{tokens:.0f} | {took:.2f} | {told:.2f} | {told / took - 1:+.1%}"
            yield f"| {kind} | {len(some)} | {figures} |"
