"""Exact percentiles, held against NumPy on everything observed one by one."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from brim.metrics.samples import Samples

SHARES = [0.0, 0.5, 0.9, 0.95, 0.99, 1.0]


def filled(values: list[tuple[float, int]]) -> Samples:
    samples = Samples()
    for value, times in values:
        samples.observe(value, times)
    return samples


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from([0.25, 1.0, 2.5]) | st.floats(0, 9), st.integers(1, 9)), min_size=1)
)
def test_weighted_figures_are_those_of_all_observations(values):
    samples = filled(values)
    each = np.repeat([value for value, _ in values], [times for _, times in values])
    assert samples.percentiles(SHARES) == pytest.approx(np.quantile(each, SHARES).tolist())
    assert samples.mean == pytest.approx(each.mean())
    assert (samples.count, samples.sum) == (len(each), pytest.approx(each.sum()))


def test_nothing_observed_has_no_figures():
    assert (Samples().count, Samples().mean, Samples().percentiles([0.5])) == (0, None, [None])


def test_the_order_of_observations_changes_nothing():
    values = [(0.1, 3), (0.7, 1), (1e9, 2), (0.2, 5)]
    assert filled(values).mean == filled(values[::-1]).mean
