"""Steps that are not even: as late as was seen, the same in every run, and targets as on an even machine."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from brim.core.estimators.step_time import StepTime
from brim.core.events import Event, QuietSteps, Tokens
from brim.core.request import TaskClass
from brim.profiles.unevenness import Unevenness
from brim.simulation.run import simulate
from brim.simulation.targets import Targets
from brim.workloads.trace import Trace
from tests.unit.simulation.cluster import scenarios as clusters
from tests.unit.simulation.scenarios import NO_CLOCK, PS, asked, machine, setup, trace

TEN_MS = StepTime(10 * PS, 0, (), 0, 0, 0)
TWICE = Unevenness((0.0, 1.0), (2.0, 2.0))
OFTEN_LATE = Unevenness((0.0, 0.75, 0.750001, 1.0), (1.0, 1.0, 3.0, 3.0))
ALONE = trace(asked(0, 8, 60))


def gaps(requests: Trace, unevenness: Unevenness, depth: int = 1) -> Counter[int]:
    """In milliseconds, and how often."""
    ends: list[int] = []

    def observe(events: list[Event]) -> None:
        for event in events:
            steps = event.steps() if isinstance(event, QuietSteps) else (event,)
            ends.extend(step.now_ns for step in steps if isinstance(step, Tokens))

    on = setup(machine(TEN_MS, unevenness=unevenness), depth=depth)
    simulate(requests, on, observe=observe, stopwatch=NO_CLOCK)
    return Counter(round((b - a) / 1e6) for a, b in pairwise(ends))


def test_steps_with_prompts_and_of_decodes_alone_are_uneven_alike() -> None:
    assert gaps(ALONE, TWICE) == {20: 59}
    found = gaps(ALONE, OFTEN_LATE)
    assert found.keys() == {10, 30}
    assert 8 <= found[30] <= 22
    assert found == gaps(ALONE, OFTEN_LATE)


def test_so_are_steps_that_are_scheduled_ahead() -> None:
    assert gaps(ALONE, OFTEN_LATE, depth=2).keys() == {10, 30}


def test_what_a_request_takes_alone_is_told_without_it() -> None:
    """A target of so many times that must not change from one look to the next."""
    uneven, targets = machine(TEN_MS, unevenness=OFTEN_LATE), Targets(scale=5.0)
    asked_for = ALONE.requests[0]
    assert targets.of(asked_for, uneven) == targets.of(asked_for, machine(TEN_MS))


def test_replicas_are_late_at_different_times_and_the_same_in_every_run() -> None:
    requests = trace(*(asked(0, 8, 40) for _ in range(2)))
    on = clusters.cluster(2, setup(machine(TEN_MS, unevenness=OFTEN_LATE)))
    assert clusters.result(requests, on) == clusters.result(requests, on)
    took = clusters.run(requests, on).by_class[TaskClass.ONLINE].e2e_seconds
    first, last = took.percentiles([0.0, 1.0])
    assert first is not None
    assert last is not None
    assert last > 1.01 * first
