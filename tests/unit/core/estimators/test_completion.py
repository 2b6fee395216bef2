"""When a backlog will be done: the range holds what comes, and there is none while nothing is known."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.estimators.completion import Completion, CompletionForecast

S = 1_000_000_000


def told(counts: list[int], left: int = 1000, step_seconds: int = 1) -> CompletionForecast:
    forecast = CompletionForecast()
    forecast.observe(0, 0, left)
    for second, ended in enumerate(counts, 1):
        forecast.observe(second * step_seconds * S, ended, left)
    return forecast


def test_a_steady_pace_goes_on() -> None:
    found = told([4] * 300).expect(1200)
    assert found is not None
    assert found.least_seconds < 300 < found.most_seconds
    assert found.most_seconds - found.least_seconds < 100


def test_worked_out_by_hand() -> None:
    """Eight counts of 1 and 3 in turn: mean 2, and their variance of 8/7 is under the mean, so 2 it is."""
    found = told([1, 3] * 4).expect(10)
    assert found is not None
    for seconds, sign in (found.least_seconds, 1), (found.most_seconds, -1):
        deviation = (2 * (seconds + seconds * seconds / 8)) ** 0.5
        assert seconds * 2 + sign * 2.3 * deviation == pytest.approx(10)


@pytest.mark.parametrize(
    "counts",
    [[], [5] * 7, [0] * 100, [0] * 15 + [40]],
    ids=["nothing seen", "too soon", "nothing ends", "too unlike"],
)
def test_nothing_is_said_while_nothing_is_known(counts: list[int]) -> None:
    assert told(counts).expect(100) is None


@pytest.mark.parametrize("seconds", [18, 40, 63])
def test_stretches_that_are_joined_are_as_if_they_had_been_long(seconds: int) -> None:
    counts = [random.Random(seconds).randrange(9) for _ in range(seconds)]
    long = CompletionForecast(stretch_seconds=2.0 if seconds < 34 else 4.0)
    long.observe(0, 0, 1000)
    for second, ended in enumerate(counts, 1):
        long.observe(second * S, ended, 1000)
    assert long.expect(100) == told(counts).expect(100)


def test_nothing_left_is_done() -> None:
    assert CompletionForecast().expect(0) == Completion(0, 0)


def test_time_without_work_does_not_count() -> None:
    forecast = told([4] * 16, left=0)
    forecast.observe(5000 * S, 0, 100)  # nothing was there until now
    assert forecast.expect(100) == told([4] * 16).expect(100)


def test_what_ended_before_the_first_call_says_nothing() -> None:
    late = CompletionForecast()
    late.observe(7 * S, 1_000_000, 50)
    for second in range(8, 24):
        late.observe(second * S, 4, 50)
    assert late.expect(50) == told([4] * 16).expect(50)


def test_a_clock_that_goes_back_adds_no_time() -> None:
    forecast = told([4] * 16)
    forecast.observe(3 * S, 0, 1000)
    forecast.observe(16 * S, 0, 1000)
    assert forecast.expect(100) == told([4] * 16).expect(100)


def test_old_times_are_forgotten() -> None:
    found = told([1] * 4000 + [10] * 4000).expect(10_000)
    assert found is not None
    assert found.least_seconds < 1000 < found.most_seconds < 1300


@given(st.lists(st.integers(0, 30), min_size=20, max_size=200), st.integers(1, 5000), st.integers(1, 5000))
def test_the_range_grows_with_what_is_left(counts: list[int], less: int, more: int) -> None:
    forecast = told(counts)
    few, many = forecast.expect(less), forecast.expect(less + more)
    assert (few is None) == (many is None)
    if few is not None and many is not None:
        assert 0 < few.least_seconds < few.most_seconds
        assert few.least_seconds < many.least_seconds
        assert few.most_seconds < many.most_seconds


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(0, 9)), min_size=20, max_size=50), st.data())
def test_time_may_be_told_in_any_portions(told_of: list[tuple[int, int]], data: st.DataObject) -> None:
    """Where nothing ended, a call more or less changes nothing."""
    plain, finer, now_ms = CompletionForecast(0.5), CompletionForecast(0.5), 0
    for forecast in (plain, finer):
        forecast.observe(0, 0, 9)
    for wait_ms, ended in told_of:
        middle_ms = data.draw(st.integers(0, wait_ms))
        finer.observe((now_ms + middle_ms) * 10**6, 0, 9)
        finer.observe((now_ms + wait_ms) * 10**6, 0, 9)
        plain.observe((now_ms + wait_ms) * 10**6, 0, 9)
        now_ms += wait_ms
        for forecast in (plain, finer):
            forecast.observe(now_ms * 10**6, ended, 9)
    one, other = plain.expect(100), finer.expect(100)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one == pytest.approx(other)


def bunches(draw: random.Random, size: int, per_second: float) -> Iterator[float]:
    """When requests end, `size` of them together."""
    now = 0.0
    while True:
        now += draw.expovariate(per_second / size)
        yield from [now] * size


@pytest.mark.parametrize(("size", "seen_seconds"), [(1, 60), (1, 600), (8, 120), (30, 900)])
def test_what_comes_lies_in_the_range(size: int, seen_seconds: int) -> None:
    """Of 200 histories at least 9 in 10; and it is told nearly always."""
    inside, known, left = 0, 0, 600
    for seed in range(200):
        ends = bunches(random.Random(seed), size, per_second=4.0)
        forecast = CompletionForecast()
        forecast.observe(0, 0, left)
        end = next(ends)
        for second in range(1, seen_seconds + 1):
            ended = 0
            while end <= second:
                ended, end = ended + 1, next(ends)
            forecast.observe(second * S, ended, left)
        found = forecast.expect(left)
        for _ in range(left - 1):
            end = next(ends)
        if found is not None:
            known += 1
            inside += found.least_seconds <= end - seen_seconds <= found.most_seconds
    assert known > 180
    assert inside > 0.9 * known
