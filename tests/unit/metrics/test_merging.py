"""Many recorders as one."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from brim.core.request import FinishReason
from brim.metrics.merging import fine, merged


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=50), st.sampled_from([0.1, 0.5, 0.99]))
def test_percentiles_are_right_within_a_hundredth(values: list[float], share: float):
    metrics = fine()
    exact = sorted(values)
    for value in values:
        metrics.e2e_seconds.observe(value)
    [found] = metrics.e2e_seconds.percentiles([share])
    rank = share * len(exact)
    nearest = exact[min(max(-int(-rank // 1) - 1, 0), len(exact) - 1)]
    assert found is not None
    assert 0.98 * nearest <= found <= 1.011 * nearest


def test_counts_add_up():
    one, other = fine(), fine()
    one.arrived, other.arrived = 2, 3
    one.finished[FinishReason.STOP] += 1
    other.finished[FinishReason.STOP] += 1
    other.slo["all", True] += 1
    one.ttft_seconds.observe(1.0)
    other.ttft_seconds.observe(3.0)
    both = merged([one, other])
    assert (both.arrived, both.ended_well, both.slo["all", True]) == (5, 2, 1)
    assert both.ttft_seconds.mean == 2.0
