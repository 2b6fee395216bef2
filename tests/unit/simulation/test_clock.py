from __future__ import annotations

import math

import pytest

from brim.simulation.clock import Clock, Order


def test_what_is_due_happens_in_order_and_ties_in_order_of_kind_then_of_announcement():
    clock, seen = Clock(), []
    for time_ns, order, name in [
        (5, Order.STEP, "step"),
        (5, Order.ARRIVAL, "first"),
        (3, Order.MARK, "early"),
        (5, Order.ARRIVAL, "second"),
    ]:
        clock.at(time_ns, order, lambda name=name: seen.append((clock.now_ns, name)))
    clock.run()
    assert seen == [(3, "early"), (5, "first"), (5, "second"), (5, "step")]


def test_time_moves_on_only_as_far_as_nothing_is_due():
    clock = Clock()
    assert clock.next_ns == math.inf
    clock.at(10, Order.STEP, lambda: None)
    assert clock.advance(9)
    assert not clock.advance(10)
    assert (clock.now_ns, clock.next_ns) == (9, 10)


def test_nothing_happens_in_the_past():
    clock = Clock()
    clock.advance(7)
    with pytest.raises(ValueError, match="7 ns"):
        clock.at(6, Order.STEP, lambda: None)


def test_nothing_happens_once_it_is_stopped():
    clock, seen = Clock(), []
    clock.at(5, Order.MARK, clock.stop)
    for time_ns in (4, 5, 6):
        clock.at(time_ns, Order.STEP, lambda: seen.append(clock.now_ns))
    clock.run()
    assert (seen, clock.now_ns) == ([4], 5)
    assert not clock.advance(5)
