"""Parts and doubles of a trace."""

from __future__ import annotations

import pytest

from brim.planning.demand import BLOCK_NS, busiest, resampled, too_short
from brim.planning.over_time import needed
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest


def at(*seconds: float, tokens: int = 1) -> Trace:
    return Trace("t", [TraceRequest(round(s * NANOSECONDS), tokens, 1) for s in seconds])


def test_the_busiest_stretch_begins_at_zero():
    found = busiest(at(0, 10, 20, 21, 22, 40), 3)
    assert [r.arrival_ns for r in found.requests] == [0, NANOSECONDS, 2 * NANOSECONDS]
    assert "busiest 3 requests in a row of 6" in found.note


def test_resampling_keeps_the_course_of_the_day():
    """A busy hour after a quiet one: minutes come from within five minutes of theirs."""
    quiet = [60.0 * minute for minute in range(60)]
    busy = [3600 + 6.0 * i for i in range(600)]
    trace = at(*quiet, *busy)
    drawn = resampled(trace, 3)
    early = sum(r.arrival_ns < 50 * BLOCK_NS for r in drawn.requests)
    late = sum(r.arrival_ns > 70 * BLOCK_NS for r in drawn.requests)
    assert early == 50
    assert late == 499  # all but the first of its first minute
    assert resampled(trace, 3) == drawn


def test_a_trace_under_a_minute_is_drawn_anew():
    trace = at(*(i * i / 250 for i in range(100)))
    arrivals = [r.arrival_ns for r in trace.requests]
    assert all([r.arrival_ns for r in resampled(trace, seed).requests] != arrivals for seed in range(4))


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_last_minute_stands_for_no_whole_one(seed: int):
    """A request a second for 20 minutes and a half: as many in every drawn minute, and in the half."""
    trace = at(*range(20 * 60 + 31))
    drawn = [r.arrival_ns for r in resampled(trace, seed).requests]
    assert drawn == [r.arrival_ns for r in trace.requests]


def test_under_a_hundred_requests_are_too_few_to_draw_from():
    assert too_short(at(*range(99)))
    assert not too_short(at(*range(100)))


def test_needs_lie_on_lines_between_what_was_searched():
    known = [(100, 1), (200, 2), (400, 6)]
    assert [needed(known, work) for work in (0, 50, 150, 200, 300, 400, 900)] == [1, 1, 2, 2, 4, 6, 6]
