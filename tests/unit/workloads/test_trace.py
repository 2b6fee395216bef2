"""A trace and what is made of it: only what is asked for changes, and the note says so."""

from __future__ import annotations

from itertools import pairwise

import pytest

from brim.core.errors import ConfigError, TraceError
from brim.core.request import TaskClass
from brim.workloads.arrivals import AllAtOnce, Deterministic, Poisson
from brim.workloads.lengths import synthetic
from brim.workloads.statistics import statistics
from brim.workloads.trace import (
    NANOSECONDS,
    Trace,
    TraceRequest,
    merged,
    reblocked,
    rescaled,
    shuffled,
    spread_quantised,
    with_arrivals,
)


def trace(*arrivals_s: float, **fields: object) -> Trace:
    requests = [TraceRequest(round(s * NANOSECONDS), i + 1, 2) for i, s in enumerate(arrivals_s)]
    return Trace("t", requests, **fields)  # type: ignore[arg-type]


def inputs(of: Trace) -> list[int]:
    return [r.input_tokens for r in of.requests]


def arrivals_s(of: Trace) -> list[float]:
    return [r.arrival_ns / NANOSECONDS for r in of.requests]


def test_requests_are_sorted_by_arrival_and_ties_keep_their_order() -> None:
    assert inputs(trace(3, 1, 1, 0)) == [4, 2, 3, 1]


def test_first_and_window() -> None:
    t = trace(1, 2, 3, 4)
    assert inputs(t.first(2)) == [1, 2]
    assert len(t.first(9)) == 4
    assert arrivals_s(t.window(2)) == [1, 2]


def test_as_class() -> None:
    offline = trace(0, 1).as_class(TaskClass.OFFLINE, deadline_s=60)
    assert {(r.task_class, r.deadline_s) for r in offline.requests} == {(TaskClass.OFFLINE, 60)}
    assert {r.deadline_s for r in offline.as_class(TaskClass.ONLINE).requests} == {60}


def test_a_scale_of_two_halves_every_gap() -> None:
    assert arrivals_s(rescaled(trace(1, 3, 7), scale=2)) == [1, 2, 4]


@pytest.mark.parametrize("rate", [0.01, 3.7, 1000.0])
def test_rescaled_to_a_rate_has_that_rate_and_the_same_order(rate: float) -> None:
    before = with_arrivals(synthetic("alpaca", 500), Poisson(5, seed=3))
    after = rescaled(before, rate=rate)
    assert inputs(after) == inputs(before)
    assert statistics(after).rate == pytest.approx(rate, rel=1e-6)
    assert statistics(after).gap_cv == pytest.approx(statistics(before).gap_cv, rel=1e-4)
    assert after.requests[0].arrival_ns == before.requests[0].arrival_ns
    assert after.note.endswith(f"gaps scaled to {rate:g} requests/s")


@pytest.mark.parametrize(
    "wrong", [{}, {"rate": 1, "scale": 1}, {"rate": 0}, {"scale": -1}, {"rate": float("nan")}]
)
def test_a_wrong_pace_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="give"):
        rescaled(trace(1, 2), **wrong)  # type: ignore[arg-type]


def test_nothing_is_rescaled_where_there_are_no_gaps() -> None:
    with pytest.raises(TraceError, match="all requests arrive at once"):
        rescaled(trace(1, 1), rate=5)
    with pytest.raises(TraceError, match="no arrivals: make some, as with `brim trace convert --arrivals"):
        rescaled(trace(0, 0, has_arrivals=False), rate=5)


def test_with_arrivals_keeps_the_order_of_the_requests() -> None:
    t = with_arrivals(trace(0, 0, 0, has_arrivals=False), Deterministic(2))
    assert (inputs(t), arrivals_s(t), t.has_arrivals) == ([1, 2, 3], [0, 0.5, 1], True)
    assert t.note == "arrivals generated: uniform 2/s"
    with pytest.raises(TraceError, match="2 arrivals for 3 requests"):
        with_arrivals(t, [1, 2])


def test_equal_stamps_are_spread_over_one_tick_only() -> None:
    t = trace(*[0] * 50, *[3] * 50, *[6] * 50, *[60] * 50)
    spread = spread_quantised(t, seed=1)
    moments = arrivals_s(spread)
    assert moments == sorted(moments)
    assert inputs(spread) == inputs(t)
    for start in (0, 3, 6, 60):
        inside = [m for m in moments if start <= m < start + 3]
        assert len(inside) == 50
        assert max(inside) - min(inside) > 2
    assert moments == arrivals_s(spread_quantised(t, seed=1))
    assert "ticks of 3 s" in spread.note
    with pytest.raises(TraceError, match="a single time stamp"):
        spread_quantised(trace(1, 1))


def test_shuffled_deals_the_requests_anew() -> None:
    t = trace(*range(50))
    mixed = shuffled(t, seed=2)
    assert arrivals_s(mixed) == arrivals_s(t)
    assert inputs(mixed) != inputs(t)
    assert sorted(inputs(mixed)) == inputs(t)


def test_merged_traces_share_no_blocks() -> None:
    a = Trace("a", [TraceRequest(5, 32, 1, block_ids=(0, 1))], 16)
    b = Trace("b", [TraceRequest(1, 32, 1, block_ids=(0, 1))], 16, note="made")
    both = merged(a, b)
    assert [r.arrival_ns for r in both.requests] == [1, 5]
    assert len({i for r in both.requests for i in r.block_ids}) == 4
    assert (both.name, both.note, both.block_tokens) == ("a + b", "b: made", 16)


def test_traces_that_do_not_go_together_are_not_merged() -> None:
    with pytest.raises(TraceError, match="lengths only"):
        merged(trace(1), trace(1, has_arrivals=False))
    with pytest.raises(TraceError, match="convert --block-tokens 512"):
        merged(trace(1, block_tokens=16), trace(1, block_tokens=512))


def test_reblocked_keeps_what_fills_a_large_block() -> None:
    requests = [
        TraceRequest(0, 80, 1, block_ids=(0, 1, 2, 3, 4)),
        TraceRequest(1, 48, 1, block_ids=(0, 1, 9)),
    ]
    t = reblocked(Trace("t", requests, 16), 32)
    assert [r.block_ids for r in t.requests] == [(1, 3), (1,)]
    assert t.block_tokens == 32
    with pytest.raises(ConfigError, match="no multiple"):
        reblocked(t, 48)


def test_statistics() -> None:
    requests = [TraceRequest(i * NANOSECONDS, i + 1, 1, block_ids=(0, i)) for i in range(5)]
    figures = statistics(Trace("t", requests, 1))
    assert (figures.requests, figures.span_s, figures.rate, figures.gap_cv) == (5, 4, 1, 0)
    assert (figures.input_tokens.mean, figures.input_tokens.p50, figures.input_tokens.max) == (3, 3, 5)
    assert figures.input_tokens.p90 == pytest.approx(4.6)
    assert figures.seen_block_share == pytest.approx(0.5)


def test_statistics_without_arrivals_tell_no_rate() -> None:
    for t in (trace(0, 0, has_arrivals=False), with_arrivals(trace(1, 2), AllAtOnce()), trace(1)):
        figures = statistics(t)
        assert (figures.span_s, figures.rate, figures.gap_cv, figures.seen_block_share) == (None,) * 4
    with pytest.raises(TraceError, match="no requests"):
        statistics(Trace("t", []))


def test_gaps_never_turn_around() -> None:
    quick = rescaled(trace(*(i / 7 for i in range(1000))), rate=1e9)
    assert all(a.arrival_ns <= b.arrival_ns for a, b in pairwise(quick.requests))
    assert inputs(quick) == list(range(1, 1001))
