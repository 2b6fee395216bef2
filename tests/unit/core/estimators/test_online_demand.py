"""The coming online demand: peaks per sub-window, their mean and spread, and how often that was enough."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.core.errors import ConfigError
from brim.core.estimators.online_demand import OnlineDemand

S = 1_000_000_000


def demand(num_sub_windows: int = 4, deviations: float = 2.0) -> OnlineDemand:
    """With sub-windows of 1 s."""
    return OnlineDemand(float(num_sub_windows), num_sub_windows, deviations)


def test_the_forecast_is_the_mean_of_the_peaks_and_their_spread():
    coming = demand()
    for now_ns, blocks in [(0, 3), (S // 2, 10), (S - 1, 2), (S, 6), (2 * S, 6)]:
        coming.observe(now_ns, blocks)
    assert coming.forecast_blocks == 12  # peaks 10 and 6: 8 + 2 * 2


def test_what_is_held_stays_held_through_quiet_sub_windows():
    coming = demand(deviations=0)
    coming.observe(0, 7)
    coming.observe(100 * S, 1)
    assert coming.forecast_blocks == 7
    coming.observe(103 * S, 1)  # one peak of 7, when it fell, and two of 1; and the 7 before
    assert coming.forecast_blocks == 4


def test_old_peaks_leave_the_window():
    coming = demand()
    coming.observe(0, 50)
    coming.observe(S // 2, 5)
    coming.observe(4 * S, 5)
    assert coming.forecast_blocks > 50  # 50, 5, 5, 5
    coming.observe(5 * S, 5)
    assert coming.forecast_blocks == 5


def test_while_peaks_rise_the_forecast_does_not_fall():
    """A burst arrives just as the older one leaves the window."""
    coming = demand()
    forecasts = []
    for second, blocks in enumerate([80, 10, 10, 12, 20, 30, 40, 50, 50, 50]):
        coming.observe(second * S, blocks)
        coming.observe(second * S + S - 1, 0)
        forecasts.append(coming.forecast_blocks)
    plain = [math_forecast([80, 10, 10, 12, 20, 30, 40, 50, 50, 50][:end][-4:]) for end in range(1, 10)]
    assert plain[4] < plain[3]  # would fall at second 5, the peaks having risen to 20
    assert forecasts[4:9] == sorted(forecasts[4:9])


def math_forecast(peaks: list[int]) -> float:
    return statistics.mean(peaks) + 2 * statistics.pstdev(peaks)


def test_coverage_is_the_share_of_the_time_within_the_forecast():
    coming = demand(deviations=0)
    assert coming.coverage == 1.0
    coming.observe(0, 10)
    coming.observe(S, 10)  # the forecast is 10, and time counts from here
    coming.observe(S + S // 4, 11)
    coming.observe(S + S // 2, 4)
    coming.observe(2 * S - 1, 4)
    assert coming.coverage == pytest.approx(0.75)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 40)), min_size=1, max_size=40))
def test_the_forecast_against_all_that_was_told(told):
    """Peaks of every sub-window from the whole history, each forecast made from the last four."""
    coming, history, now_ns = demand(), [], 0
    for gap_ns, blocks in told:
        now_ns += gap_ns
        history.append((now_ns, blocks))
        coming.observe(now_ns, blocks)
    start_ns = history[0][0]
    peaks, forecast = [], 0.0
    for k in range((now_ns - start_ns) // S):
        begin_ns, end_ns = start_ns + k * S, start_ns + (k + 1) * S
        before = [blocks for at_ns, blocks in history if at_ns < begin_ns][-1:]
        peaks.append(max(before + [blocks for at_ns, blocks in history if begin_ns <= at_ns < end_ns]))
        rising = len(peaks) > 1 and peaks[-1] > peaks[-2]
        forecast = max(math_forecast(peaks[-4:]), forecast if rising else 0)
    assert forecast - 1e-6 <= coming.forecast_blocks < forecast + 1 + 1e-6


@pytest.mark.parametrize("arguments", [(0.0, 4, 2.0), (60.0, 1, 2.0), (60.0, 12, -1.0)])
def test_a_window_that_means_nothing_is_refused(arguments):
    with pytest.raises(ConfigError, match="window above 0 s"):
        OnlineDemand(*arguments)
