"""Small machines, traces and setups, so that every time can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brim.core.estimators.step_time import StepTime
from brim.core.events import Event, QuietSteps, line
from brim.core.request import TaskClass
from brim.simulation.machine import Machine
from brim.simulation.results import Figures, figures
from brim.simulation.run import Run, Setup, simulate
from brim.workloads.trace import Trace, TraceRequest
from tests.helpers import MS, ONLINE, config

PS = 1_000_000_000  # picoseconds in a millisecond
NO_CLOCK = lambda: 0.0  # noqa: E731


def step_time(constant: int = 10, **per: int) -> StepTime:
    """Times in milliseconds: 10 for a step, 1 for each token, nothing else."""
    costs = {"per_token": 1, "per_pair": 0, "per_decode": 0, "per_context": 0} | per
    in_ps = {f"{name}_ps": ms * PS for name, ms in costs.items()}
    return StepTime(constant_ps=constant * PS, knees=(), **in_ps)


def machine(model: StepTime | None = None, **changes: Any) -> Machine:
    return Machine(model or step_time(), target_forward_tokens=8, **changes)


def asked(
    at_ms: float,
    prompt: int,
    output: int,
    task_class: TaskClass = ONLINE,
    deadline_s: float | None = None,
    block_ids: Sequence[int] = (),
) -> TraceRequest:
    return TraceRequest(round(at_ms * MS), prompt, output, task_class, deadline_s, tuple(block_ids))


def trace(*requests: TraceRequest, block_tokens: int = 0) -> Trace:
    return Trace("small", requests, block_tokens=block_tokens)


def setup(model: Machine | None = None, *, settings: dict[str, Any] | None = None, **changes: Any) -> Setup:
    """100 blocks of 4 tokens, prefix caching off."""
    base = {"num_blocks": 100, "max_model_len": 100, "enable_prefix_caching": False}
    return Setup(config(**base | (settings or {})), model or machine(), **changes)


def run(requests: Trace, on: Setup | None = None) -> tuple[Run, list[str]]:
    """The run and its events as lines, every quiet stretch as the steps it stands for."""
    heard: list[str] = []

    def observe(events: list[Event]) -> None:
        for event in events:
            single = event.steps() if isinstance(event, QuietSteps) else (event,)
            heard.extend(line(one) for one in single)

    return simulate(requests, on or setup(), observe=observe, stopwatch=NO_CLOCK), heard


def result(requests: Trace, on: Setup | None = None) -> Figures:
    return figures(run(requests, on)[0])


def online(requests: Trace, on: Setup | None = None) -> Figures:
    row: Figures = result(requests, on)[ONLINE]
    return row
