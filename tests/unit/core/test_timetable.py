"""What many requests will hold together, against a walk step by step."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from brim.core.kvcache.timetable import Growth, Timetable

SIZE = 4
GROWTHS = st.builds(Growth, st.integers(1, 40), st.integers(SIZE, 30), st.integers(-3, 4))
MANY = st.lists(GROWTHS, max_size=8)


def walked(growths: list[Growth]) -> list[int]:
    """The total at each step from 0 on, every request looked at in every step."""
    last = max((growth.until for growth in growths), default=0)
    return [sum(g.fixed + (g.phase + t) // SIZE for g in growths if t <= g.until) for t in range(last + 1)]


def made_of(growths: list[Growth], held: int = 0) -> Timetable:
    timetable = Timetable(SIZE, held)
    for growth in growths:
        timetable.add(growth)
    return timetable


def totals(timetable: Timetable) -> dict[int, int]:
    return dict(zip(timetable._ends, timetable._totals, strict=True))


def test_nobody_holds_nothing():
    empty = Timetable(SIZE)
    assert (totals(empty), empty.peak, empty.unwritten) == ({}, 0, 0)


def test_one_request_holds_most_at_its_end():
    """5 tokens now, 7 more: 12 fill three blocks, and one is given a step ahead."""
    alone = made_of([Growth(7, 5 + SIZE, 0)], 2)
    assert (totals(alone), alone.peak, alone.unwritten) == ({7: 4}, 4, 2)


def test_what_leaves_first_is_not_held_together_with_what_comes_later():
    both = made_of([Growth(4, 4, 0), Growth(12, 4, 0)], 2)
    assert totals(both) == {4: 2 + 2, 12: 4}
    longer = made_of([Growth(4, 4, 0), Growth(16, 4, 0)], 2)
    assert (totals(longer), longer.peak, longer.unwritten) == ({4: 4, 16: 5}, 5, 3)


def test_a_guest_that_leaves_in_time_costs_nothing():
    host = made_of([Growth(16, 4, 0)], 1)
    assert host.peak == 5
    assert host.cost(Growth(7, 4, 0), 0) == 0  # two of its own beside the host's two
    assert host.cost(Growth(8, 4, 0), 0) == 1  # three beside three
    assert host.cost(Growth(16, 4, 0), 0) == 5


def test_what_a_request_holds_already_is_not_paid_again():
    host = made_of([Growth(16, 4, 0)], 1)
    assert host.cost(Growth(16, 4, 0), 1) == 4
    assert host.cost(Growth(4, 4, 0), 1) == -1  # its block comes free in time for the host


def test_a_guest_added_is_there_until_its_end_only():
    timetable = made_of([Growth(16, 4, 0)], 2)
    timetable.add(Growth(7, 4, 0))
    assert (totals(timetable), timetable.unwritten) == ({7: 4, 16: 5}, 3)


@given(MANY)
def test_the_totals_are_those_of_a_walk(growths):
    walk, timetable = walked(growths), made_of(growths)
    assert totals(timetable) == {growth.until: walk[growth.until] for growth in growths}


@given(st.lists(GROWTHS, min_size=1, max_size=8))
def test_no_step_of_the_walk_is_over_the_peak(growths):
    assert made_of(growths).peak == max(walked(growths))


@given(MANY, GROWTHS, st.integers(0, 9), st.integers(0, 3))
def test_a_cost_is_what_the_walk_rises_by(growths, newcomer, held, own):
    before, after = max([0, *walked(growths)]), max([0, *walked(growths), *walked([*growths, newcomer])])
    cost = made_of(growths, held).cost(newcomer, own)
    assert cost == max(after - held - own, 0) - max(before - held, 0)


@given(st.lists(GROWTHS, min_size=1, max_size=8), st.data())
def test_what_is_taken_out_was_never_there(growths, data):
    order = data.draw(st.permutations(growths))
    leaving = data.draw(st.integers(0, len(growths)))
    timetable = made_of(growths, 3)
    for growth in order[:leaving]:
        timetable.remove(growth)
    assert timetable == made_of(order[leaving:], 3)


@given(MANY, GROWTHS, st.integers(0, 60))
def test_the_unwritten_is_never_negative_and_never_above_the_peak(growths, newcomer, held):
    timetable = made_of(growths, held)
    assert 0 <= timetable.unwritten <= max(timetable.peak, 0)
    timetable.held += 3
    timetable.add(newcomer)
    assert timetable.unwritten >= 0
    assert all(total <= timetable.peak for total in timetable._totals)


@given(MANY, GROWTHS)
def test_a_copy_is_a_thing_of_its_own(growths, newcomer):
    timetable = made_of(growths, 1)
    before = (totals(timetable), timetable.peak, timetable.held, timetable.cost(newcomer, 0))
    twin = timetable.copy()
    assert (totals(twin), twin.peak, twin.held, twin.cost(newcomer, 0)) == before
    twin.add(newcomer)
    assert (totals(timetable), timetable.peak, timetable.held, timetable.cost(newcomer, 0)) == before
