"""Parts of a trace against a plain count, what is read off between them, and the whole from stretches."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.planning.demand import work_tokens
from brim.planning.offline import LEAST_SECONDS, fillings, offline_figures
from brim.planning.over_time import over_time
from brim.planning.parts import LEAST_PART_NS, MOST_PART_NS, PARTS, WARM_NS, Parts, line
from brim.planning.question import Aim, Kind, Load
from brim.planning.whole import whole_figures
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

MINUTE_NS = 60 * NANOSECONDS


def trace(*arrivals_ns: int) -> Trace:
    return Trace("t", [TraceRequest(ns, 1 + i, 2) for i, ns in enumerate(arrivals_ns)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300 * MINUTE_NS), min_size=1, max_size=50))
def test_every_request_is_in_the_part_of_its_time(arrivals_ns):
    whole = trace(*sorted(arrivals_ns))
    parts = Parts(whole)
    assert len(parts.all) <= PARTS
    for part in parts.all:
        inside = [r for r in whole.requests if part.start_ns <= r.arrival_ns < part.end_ns]
        assert list(whole.requests[part.first : part.last]) == inside
        assert part.rate == pytest.approx(sum(map(work_tokens, inside)) / part.seconds)
    assert sum(part.num_requests for part in parts.all) == len(whole)
    rates = [part.rate for part in parts.chosen()]
    assert rates == sorted(rates)
    assert {min(p.rate for p in parts.all if p.rate), max(p.rate for p in parts.all)} <= set(rates)


def test_a_short_trace_has_minutes_and_a_long_one_hours():
    assert Parts(trace(0, 10 * MINUTE_NS)).width_ns == LEAST_PART_NS
    assert Parts(trace(0, 7 * 24 * 60 * MINUTE_NS)).width_ns == MOST_PART_NS


def test_stretches_come_from_parts_of_every_load():
    """Part i has i + 1 requests: of 24 parts, 4 groups of 6."""
    ns = [part * MINUTE_NS + i for part in range(24) for i in range(part + 1)]
    parts = Parts(trace(*ns))
    assert [part.num_requests for part in parts.spread(4)] == [4, 10, 16, 22]
    assert len(parts.spread(100)) == 24


@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_stretch_counts_only_its_own_part_and_warms_up_before(seed, most):
    seconds = [10 * i for i in range(60)]
    parts = Parts(trace(*(s * NANOSECONDS for s in seconds)))
    part = parts.all[3]
    found = parts.anywhere(part, most, Load(parts.trace, 128, 1), seed)
    counted = [r for r in found.trace.requests if r.arrival_ns >= found.measured_from_ns]
    assert len(counted) == min(most, part.num_requests)
    assert set(counted) <= {
        r._replace(arrival_ns=r.arrival_ns - _moved(parts, found)) for r in part_of(parts)
    }
    assert found.measured_from_ns == WARM_NS
    assert found.trace.requests[0].arrival_ns == 0


def part_of(parts: Parts) -> list[TraceRequest]:
    part = parts.all[3]
    return list(parts.trace.requests[part.first : part.last])


def _moved(parts: Parts, found: Load) -> int:
    """A request is known by its prompt, which no other has."""
    first = found.trace.requests[0]
    return next(r.arrival_ns for r in parts.trace.requests if r.input_tokens == first.input_tokens)


def test_lines_between_points_are_flat_beyond_them():
    known = [(10.0, 1.0), (20.0, 3.0)]
    assert [line(known, x) for x in (0, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]


def searched(*replicas: int | None) -> list[dict[str, int | None]]:
    return [{"replicas": n} for n in replicas]


def test_parts_may_need_more_than_the_whole_and_those_that_none_held_are_counted():
    parts = Parts(trace(0, MINUTE_NS, MINUTE_NS + 1, 2 * MINUTE_NS - 1))
    found = over_time(parts, searched(1, 4))
    assert (found["replicas"], found["peak"], found["unheld_parts"]) == ([1, 4], 4, 0)
    found = over_time(parts, searched(2, None))
    assert (found["replicas"], found["unheld_parts"], found["searched_parts"]) == ([2, 2], 1, 2)
    found = over_time(parts, searched(None, None))
    assert (found["replicas"], found["peak"], found["unheld_parts"]) == ([], None, 2)


def test_offline_work_is_simulated_for_a_time_however_bursty_its_part():
    """A hundred requests in the first millisecond of each minute, one in its middle."""
    times = [minute * MINUTE_NS + i * 10_000 for minute in range(4) for i in range(100)]
    halves = [minute * MINUTE_NS + MINUTE_NS // 2 for minute in range(4)]
    parts = Parts(trace(*sorted(times + halves)))
    load, kind = Load(parts.trace, 1024, NANOSECONDS), Kind("a100-opt-13b", "vllm")
    for task in fillings(kind, load, parts, Aim(NANOSECONDS, NANOSECONDS), 100):
        assert task.load.span_ns == LEAST_SECONDS * NANOSECONDS
        counted = [r for r in task.load.trace.requests if r.arrival_ns >= task.load.measured_from_ns]
        assert len(counted) == 100  # a burst, behind its warm-up
        assert counted[-1].arrival_ns < task.load.span_ns


def test_offline_work_is_read_off_by_load_and_added_up():
    """A quiet minute with one request and a busy one with three: done at once what each leaves."""
    parts = Parts(trace(0, MINUTE_NS, MINUTE_NS + 1, 2 * MINUTE_NS - 1))
    quiet, busy = parts.all
    filled = [
        {"rate": part.rate, "replicas": 2, "simulated_seconds": 5.0, "tokens_per_second": tokens} | shares
        for part, tokens, shares in (
            (busy, 10.0, {"attainment": 0.9, "busy_share": 1.0}),
            (quiet, 50.0, {"attainment": 1.0, "busy_share": 0.5}),
        )
    ]
    found = offline_figures(filled, parts)
    assert found["tokens_done"] == pytest.approx([3000, 3600])
    assert found["tokens_per_second"] == pytest.approx(30)
    assert found["busy_share"] == pytest.approx(0.75)
    assert found["attainment"] == pytest.approx(1 - 3 * 0.1 / 4)


def test_the_whole_is_the_mean_by_requests_with_its_error():
    checked = [
        {"requests": 300, "attainment": 1.0, "simulated_requests": 10, "start_seconds": 0.0},
        {"requests": 100, "attainment": 0.8, "simulated_requests": 10, "start_seconds": 60.0},
    ]
    found = whole_figures(checked, 400)
    assert found["attainment"] == pytest.approx(0.95)
    assert found["standard_error"] == pytest.approx(((300 * 0.05) ** 2 + (100 * 0.15) ** 2) ** 0.5 / 400)
    assert not found["complete"]
    assert found["least_at_seconds"] == 60.0
    assert whole_figures(checked, 20)["standard_error"] == 0.0
