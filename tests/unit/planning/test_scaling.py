"""What an autoscaler keeps up over a day: by hand, from all of it at once, and from stretches of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from brim.planning.parts import Parts
from brim.planning.question import Aim, Kind, Load
from brim.planning.scaling import autoscaling, first_replicas, mean_and_error, over_the_whole, scaling_figures
from brim.planning.tasks import Scaled, do
from brim.simulation.cluster.setup import Scaling
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest
from tests.helpers import MS

HOUR = 360  # of a day that passes ten times as fast, its scaling too
BUSY = range(12 * HOUR, 13 * HOUR)
AT_ONCE = 4.6  # an answer of 100 tokens takes 2.3 s, and two a second come
KIND = Kind("a100-opt-13b", "vllm", kv_tokens=3200)
AIM = Aim(400 * MS, 35 * MS, 0.95)
DAY_SCALED = (23 * HOUR + 4 * HOUR + 3 * 30) / (24 * HOUR)  # what came is let go after 30 s of quiet


def moments() -> Iterator[float]:
    """One request in 10 s, and two a second from 12 to 13 o'clock."""
    for second in range(24 * HOUR):
        if second in BUSY:
            yield from (second, second + 0.5)
        elif second % 10 == 0:
            yield float(second)
    yield 24 * HOUR - 1e-9


def lasting(*seconds: float) -> Trace:
    return Trace("day", [TraceRequest(round(s * NANOSECONDS), 60, 100) for s in seconds])


DAY = lasting(*moments())
NOON = lasting(*(i / 2 for i in range(2 * HOUR)))
# four or five requests at once: 4 replicas
SCALING = Scaling(1, 8, 1.25, 12 * NANOSECONDS, 3 * NANOSECONDS // 2, 30 * NANOSECONDS)


def busiest() -> Scaled:
    load = Load(NOON, 256, 6 * NANOSECONDS)
    return Scaled(KIND, load, AIM, replace(SCALING, at_first=4), len(NOON), HOUR)


@pytest.fixture(scope="module")
def noon():
    return do(busiest())


def test_a_day_with_one_busy_hour_costs_the_hours_that_are_quiet_too(noon):
    """The busy hour alone keeps 4 up all the time; the day one, but for that hour and its end."""
    assert noon["replicas_mean"] == pytest.approx(4)
    whole = replace(busiest(), load=Load(DAY, 256, 6 * NANOSECONDS), scaling=SCALING, seconds=24 * HOUR)
    assert do(whole)["replicas_mean"] == pytest.approx(DAY_SCALED, abs=0.002)
    stretches = [do(task) for task in over_the_whole(busiest(), AT_ONCE, Parts(DAY), len(DAY), 0)]
    found = scaling_figures(busiest(), noon, stretches, Parts(DAY))
    assert found["complete"]
    assert found["replicas_mean"] == pytest.approx(DAY_SCALED, abs=0.002)
    assert found["gpu_hours"] == pytest.approx(24 * DAY_SCALED * HOUR / 3600, abs=0.01)
    assert found["replicas_peak"] == 4


def test_a_few_requests_of_each_hour_tell_the_same(noon):
    """23 parts with 1 replica and one with 4: the error is of that one step between neighbours."""
    tasks = over_the_whole(busiest(), AT_ONCE, Parts(DAY), 240, 0)
    assert len(tasks) == 24
    found = scaling_figures(busiest(), noon, [do(task) for task in tasks], Parts(DAY))
    assert found["simulated_requests"] == 240
    assert not found["complete"]
    assert found["replicas_standard_error"] == pytest.approx((24 * 9 / 46) ** 0.5 / 24, rel=0.2)
    assert abs(found["replicas_mean"] - DAY_SCALED) < found["replicas_standard_error"]


def test_a_stretch_begins_with_what_its_first_minute_wants():
    quiet = lasting(*range(0, 600, 30))
    assert first_replicas(SCALING, NOON, AT_ONCE, NOON) == 4
    assert first_replicas(SCALING, quiet, AT_ONCE, NOON) == 1
    assert first_replicas(replace(SCALING, most=3), NOON, AT_ONCE, NOON) == 3


def test_hours_in_which_nobody_comes_keep_the_least(noon):
    """One comes in the first hour, many in the last: 23 hours of 2 replicas and one of 4."""
    trace = lasting(0, *(23 * HOUR + i / 2 for i in range(2 * HOUR)))
    parts = Parts(trace)
    task = replace(busiest(), scaling=replace(SCALING, least=2))
    quiet, busy = (part for part in parts.all if part.num_requests)
    stretches = [
        noon
        | {"seconds": quiet.seconds, "requests": 1, "rate": 1.0, "start_seconds": 0.0, "replicas_mean": 2.0},
        noon | {"seconds": busy.seconds, "requests": 720, "rate": 9.0, "start_seconds": 0.0},
    ]
    found = scaling_figures(task, noon, stretches, parts)
    assert found["replicas_mean"] == pytest.approx((23 * 2 + 4) / 24, abs=0.01)


def test_the_mean_is_by_weight_and_the_error_that_of_neighbours():
    one = [
        {"rate": rate, "up": up, "weight": weight} for rate, up, weight in ((3, 5, 1), (1, 1, 2), (2, 2, 1))
    ]
    mean, error = mean_and_error(one, "up", "weight")
    assert mean == pytest.approx((2 * 1 + 2 + 5) / 4)
    steps = (2 * (1 - mean), 2 - mean, 5 - mean)
    squares = (steps[1] - steps[0]) ** 2 + (steps[2] - steps[1]) ** 2
    assert error == pytest.approx((3 * squares / 4) ** 0.5 / 4)
    assert mean_and_error(one[:1], "up", "weight") == (5, 0.0)


def test_a_target_that_holds_at_noon_and_not_over_the_day_is_not_taken(noon):
    """The cheapest first; what misses over the whole gives way to the next."""
    searches = {KIND: {"run": {"online": {"e2e_seconds": {"mean": 2.3}}, "duration_seconds": HOUR}}}
    cheap, dear = (replace(busiest(), scaling=replace(SCALING, target=t, at_first=4)) for t in (2.5, 1.25))
    tried = {
        KIND: [(dear, noon), (cheap, noon | {"replicas_mean": 2.0}), (busiest(), noon | {"attainment": 0.9})]
    }

    def measure(what, tasks):
        return {
            kind: [
                noon | {"attainment": 0.9 if task.scaling.target == 2.5 else 1.0, "rate": task.rate}
                for task in of_kind
            ]
            for kind, of_kind in tasks.items()
        }

    found = autoscaling(tried, searches, Parts(DAY), 240, 0, measure)[KIND]
    assert found["target_requests_per_replica"] == 1.25
    none = autoscaling({KIND: [tried[KIND][1]]}, searches, Parts(DAY), 240, 0, measure)
    assert none == {KIND: None}
