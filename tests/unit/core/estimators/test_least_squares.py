"""Non-negative least squares: at the optimum no coefficient can be moved to advantage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.core.estimators.least_squares import NormalEquations

rows_of_three = st.lists(
    st.tuples(*[st.integers(0, 20).map(float)] * 3, st.integers(1, 5).map(float)), min_size=1, max_size=12
)


def equations(rows):
    made = NormalEquations(3)
    for *row, weight in rows:
        made.add(row, weight)
    return made


def solved(made, start):
    """Each call goes on from where the last one ended."""
    found = start
    for _ in range(500):
        before, found = found, made.solve(found)
        if found == before:
            break
    return found


def squared_error(rows, x):
    return sum(weight * (a * x[0] + b * x[1] + c * x[2] - 1) ** 2 for a, b, c, weight in rows)


@settings(max_examples=60, deadline=None)
@given(rows_of_three)
def test_no_small_move_of_any_coefficient_helps(rows):
    found = solved(equations(rows), [0.5, 0.5, 0.5])
    assert min(found) >= 0
    least = squared_error(rows, found)
    for i in range(3):
        for move in (1e-3, -1e-3):
            moved = [max(x + move, 0) if j == i else x for j, x in enumerate(found)]
            assert squared_error(rows, moved) >= least - 1e-7


def test_a_negative_optimum_stays_at_nothing():
    """2a + b = 1 and 3a + 2b = 1 are met by a = 1, b = -1 alone. No row speaks of the third."""
    found = equations([(2.0, 1.0, 0.0, 1.0), (3.0, 2.0, 0.0, 1.0)])
    assert solved(found, [1.0, 1.0, 7.0]) == [pytest.approx(5 / 13), 0, 7.0]


def test_rows_with_longer_targets_have_longer_solutions():
    rows = [(1.0, 2.0, 0.0, 1.0), (4.0, 1.0, 0.0, 2.0), (2.0, 2.0, 5.0, 1.0)]
    once = solved(equations(rows), [0.0, 0.0, 0.0])
    longer = solved(equations(rows).lengthened(3.0, 0.2), [0.0, 0.0, 0.0])
    assert longer == pytest.approx([3 * x for x in once])
