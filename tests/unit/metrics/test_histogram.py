"""Fixed buckets, held against the sorted list of everything observed."""

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


def test_percentiles_lie_on_a_line_inside_their_bucket():
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.observe(value)
    assert histogram.percentiles([0.25, 0.5, 0.75, 1.0]) == [1.0, 1.5, 2.0, 4.0]
    assert histogram.mean == pytest.approx(6.5 / 4)


def test_what_is_beyond_the_last_bound_counts_as_that_bound():
    histogram = Histogram((1.0, 2.0))
    histogram.observe(9.0)
    assert histogram.percentiles([0.5]) == [2.0]
    assert Histogram((1.0,)).percentiles([0.5]) == [None]


def test_the_sum_of_two_is_one_that_saw_both():
    one, other, both = Histogram((1.0, 2.0)), Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for value, part in ((0.5, one), (1.5, other), (3.0, other)):
        part.observe(value)
        both.observe(value)
    one.add(other)
    assert (one.counts, one.sum) == (both.counts, both.sum)
    with pytest.raises(ValueError, match="different bounds"):
        one.add(Histogram((1.0,)))
