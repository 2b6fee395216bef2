"""Fixed buckets, held against the sorted list of everything observed."""

import math
from bisect import bisect_right

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.metrics.histogram import Histogram

BOUNDS = (1.0, 2.0, 5.0, 10.0)
VALUES = st.lists(st.floats(0, 20), min_size=1, max_size=40)


def filled(values, bounds=BOUNDS) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


def test_a_value_on_a_bound_counts_below_it():
    assert filled([0, 1, 1.5, 2, 2.1, 10, 11]).counts == [2, 2, 1, 1, 1]


def test_many_observations_at_once_are_as_many_single_ones():
    at_once = Histogram(BOUNDS)
    at_once.observe(1.5, 3)
    one_by_one = filled([1.5, 1.5, 1.5])
    assert (at_once.counts, at_once.sum) == (one_by_one.counts, one_by_one.sum)


@settings(max_examples=50)
@given(VALUES)
def test_cumulative_counts_are_ranks_in_the_sorted_list(values):
    histogram, in_order = filled(values), sorted(values)
    assert histogram.cumulative() == [*(bisect_right(in_order, bound) for bound in BOUNDS), len(values)]
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))


@settings(max_examples=100)
@given(VALUES, st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_sorted_list(values, q):
    exact = sorted(values)[math.ceil(q * len(values)) - 1]
    edges = [0.0, *BOUNDS]
    high = min((bound for bound in BOUNDS if bound >= exact), default=BOUNDS[-1])
    low = edges[edges.index(high) - 1] if exact <= BOUNDS[-1] else high
    assert low <= filled(values).quantile(q) <= high


def test_a_quantile_is_interpolated_inside_its_bucket():
    histogram = filled([3, 3, 3, 3])
    assert [histogram.quantile(q) for q in (0.25, 0.5, 1.0)] == [2.75, 3.5, 5.0]


def test_beyond_the_last_bound_a_quantile_is_the_last_bound():
    assert filled([99, 99]).quantile(0.5) == 10.0


def test_a_quantile_of_nothing_is_not_a_number():
    assert math.isnan(Histogram(BOUNDS).quantile(0.5))
