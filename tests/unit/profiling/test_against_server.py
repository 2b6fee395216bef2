"""What a server did beside what is simulated: both counted alike, and the server's share found."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import accumulate, pairwise
from math import sqrt
from statistics import median, pstdev

import pytest

from brim.core.events import Event, QuietSteps, Tokens
from brim.core.request import TaskClass
from brim.profiles.loader import load
from brim.profiles.unevenness import Unevenness
from brim.profiling.against_server import (
    Check,
    Comparison,
    Share,
    _at_once,
    _measured,
    _share,
    _simulated,
    table,
    unevenness,
)
from brim.profiling.load_client import asks_of
from brim.simulation.run import Setup, simulate
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest
from tests.unit.simulation.scenarios import asked, machine, setup, trace

OFFLINE = TaskClass.OFFLINE
MIXED = trace(
    asked(0, 8, 20),
    asked(0, 12, 6, OFFLINE),
    asked(30, 6, 9),
    asked(150, 10, 1),
    asked(400, 20, 30, OFFLINE),
    asked(410, 4, 12),
)


def as_sent(requests: Trace, on: Setup) -> tuple[list, float]:
    """The run as a load client would have seen it, and how long it took."""
    asks = asks_of(requests)

    def observe(events: list[Event]) -> None:
        for event in events:
            for step in event.steps() if isinstance(event, QuietSteps) else (event,):
                if isinstance(step, Tokens):
                    for state in step.states:
                        asks[int(state.request.request_id)].token_times.append(step.now_ns / NANOSECONDS)

    run = simulate(requests, on, observe=observe)
    return asks, run.end.now_ns / NANOSECONDS


@pytest.mark.parametrize("window", [{}, {"measure_from_ns": 29_000_000, "measure_until_ns": 405_000_000}])
@pytest.mark.parametrize("task_class", TaskClass)
def test_a_run_that_is_as_simulated_has_no_error(task_class: TaskClass, window: dict[str, int]) -> None:
    on = setup(exact=True, skip=False, **window)
    asks, seconds = as_sent(MIXED, on)
    assert all(ask.done for ask in asks)
    measured = _measured(asks, task_class, on, seconds)
    simulated = _simulated(simulate(MIXED, on), task_class, 0.0)
    assert measured == pytest.approx(simulated)
    assert measured["tokens/s"]


def test_the_servers_share_is_added_once_to_a_first_token_and_to_no_gap() -> None:
    run = simulate(MIXED, setup(exact=True))
    bare, late = (_simulated(run, TaskClass.ONLINE, seconds) for seconds in (0.0, 0.5))
    moved = {what for what in bare if late[what] != bare[what]}
    assert moved == {"TTFT p50", "TTFT p95", "TTFT p99"}
    assert late["TTFT p95"] == pytest.approx(bare["TTFT p95"] + 0.5)


@pytest.mark.parametrize(
    "true", [Share(0.02, 0.003, 0.0002), Share(0.01, 0.004, 0.0), Share(0.0, -0.002, 0.0)]
)
def test_the_share_of_a_simulated_server_is_found(true: Share) -> None:
    on = setup(exact=True)
    figures = []
    for count in (1, 8):
        metrics = simulate(_at_once(6, count), true.on(on)).by_class[TaskClass.ONLINE]
        figures.append([each.percentiles([0.5])[0] for each in (metrics.ttft_seconds, metrics.itl_seconds)])
    (ttft, gap), (_, together) = figures
    uneven = replace(on, machine=replace(on.machine, unevenness=Unevenness((0.0, 1.0), (1.5, 4.0))))
    for probed in (on, uneven):  # the profile's own unevenness has no part in it
        found = _share(lambda probed=probed: probed, 6, 8, ttft + true.request, gap, together)
        assert (found.request, found.step, found.sequence) == pytest.approx(
            (true.request, true.step, true.sequence)
        )


@pytest.mark.parametrize(("step_noise", "late"), [(0.0, 0.5), (0.2, 0.0), (0.2, 0.3)])
def test_the_unevenness_of_steps_is_told_from_that_of_their_delivery(step_noise: float, late: float) -> None:
    """Steps of 1 s or so, each token told up to `late` s later."""
    draw, answers = random.Random(7), []
    for _ in range(60):
        ends = accumulate(1 + draw.uniform(-step_noise, step_noise) for _ in range(32))
        answers.append(
            [after - before for before, after in pairwise(e + draw.uniform(0, late) for e in ends)]
        )
    found = unevenness(answers)
    assert pstdev(found) == pytest.approx(step_noise / sqrt(3), rel=0.15, abs=0.06)
    assert median(found) == pytest.approx(1.0)
    assert unevenness([[0.0] * 31]) == (1.0,)


def test_the_servers_unevenness_is_simulated_and_kept_in_the_profile() -> None:
    uneven = Unevenness.of([1.0] * 3 + [2.0])
    share = Share(0.0, 0.0, 0.0, uneven)
    assert share.on(setup()).machine.unevenness == uneven
    assert share.within(load("h100-llama-3-8b")).unevenness == uneven


def test_a_profile_with_the_servers_share_takes_as_long_as_the_machine_that_has_it() -> None:
    profile, share = load("a100-llama-3-8b"), Share(0.1, 0.002, 0.00005)
    served = share.within(profile).step_time
    on = share.on(setup(machine(profile.step_time))).machine
    assert served.line(8) == on.line(8)
    assert "+2000 us a step, +50 us a decode" in share.within(profile).notes[-1]


def test_each_asks_for_its_own_answer_and_no_more() -> None:
    """With room for both answers and no more, two run at once only where it is known that they are short."""
    two = Trace("two", [TraceRequest(0, 4, 5), TraceRequest(0, 4, 5)])
    on = setup(settings={"num_blocks": 6, "max_model_len": 24, "policy": "orca"})
    ends = [simulate(two, replace(on, exact=exact)).end.now_ns for exact in (False, True)]
    assert ends[1] < ends[0]


def test_the_table_tells_both_errors() -> None:
    figures = (
        Comparison("online", "TTFT p99", 0.1, 0.08, 0.11),
        Comparison("online", "ITL p99", None, 0.01, 0.01),
        Comparison("offline", "tokens/s", 50.0, 55.0, 45.0),
    )
    lines = table(Check(Share(0.003, 0.001, 2e-5), figures, 61.4, {"online": 5, "offline": 0}))
    assert lines[0].startswith("5 online requests in 61 s.")
    assert "+3.0 ms a request, +1.00 ms a step, +20 us a request in it; steps take 1.00 to 1.00" in lines[0]
    assert lines[4:] == [
        "| online, TTFT p99, ms | 100.0 | 80.0 | -20.0% | 110.0 | +10.0% |",
        "| online, ITL p99, ms | - | 10.0 | - | 10.0 | - |",
        "| offline, tokens/s | 50.0 | 55.0 | +10.0% | 45.0 | -10.0% |",
    ]


@pytest.mark.parametrize(("measured", "error"), [(0.05, 0.2), (None, 0.15), (0.0, 0.15)])
def test_what_was_still_off_stands_in_the_profile(measured: float | None, error: float) -> None:
    figures = (
        Comparison("online", "TTFT p50", 0.1, 0.3, 0.3),
        Comparison("online", "TPOT p50", measured, 0.01, 0.04),
    )
    share = Share(0.003, 0.001, 2e-5)
    found = Check(share, figures, 61.4, {"online": 5, "offline": 0})
    served = share.within(load("h100-llama-3-8b"), found.error)
    assert served.error == pytest.approx(error)
