"""The search finds the least, from wherever it begins, in few tries."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from brim.simulation.least import least_that


@given(st.integers(1, 300), st.integers(0, 400))
def test_the_least_is_found_from_anywhere(least: int, near: int):
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number >= least

    assert least_that(holds, near, most=300) == least
    assert len(tried) == len(set(tried)) <= 20


@given(st.integers(0, 400))
def test_none_where_the_most_is_not_enough(near: int):
    assert least_that(lambda number: False, near, most=300) is None


def test_near_the_answer_two_tries_are_enough():
    tried: list[int] = []
    assert least_that(lambda n: (tried.append(n), n >= 7)[1], 7, 300) == 7
    assert tried == [7, 6]
