"""The waiting requests, in order of a key."""

import math

import pytest

from brim.core.policies.ordering import FirstComeFirstServed
from brim.core.request import RequestState, RequestView
from brim.core.waiting import WaitingQueue
from tests.helpers import OFFLINE, ONLINE, request, state

SECOND = 1_000_000_000


def a_queue() -> WaitingQueue:
    return WaitingQueue(FirstComeFirstServed())


def at(arrival_ns: int, name: str, seq: int = 0) -> RequestState:
    return state(request(name, arrival_ns=arrival_ns), seq)


class Flipping:
    """First come first served; from one second after its arrival on, a request goes before all others."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (now_ns < view.request.arrival_ns + SECOND, view.request.arrival_ns)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        late_ns = view.request.arrival_ns + SECOND
        return late_ns if now_ns < late_ns else None


def test_smaller_keys_go_first():
    queue = a_queue()
    a, b, c = at(2, "a"), at(0, "b"), at(1, "c")
    for waiting in (a, b, c):
        queue.push(waiting, 0)
    assert list(queue) == [b, c, a]
    assert list(queue.starting_at((1,))) == [c, a]
    assert queue.key(c) == (1,)


def test_time_alone_can_change_the_order():
    queue = WaitingQueue(Flipping())
    early, late = at(0, "a"), at(SECOND // 2, "b", 1)
    for waiting in (late, early):
        queue.push(waiting, 0)
    assert queue.changes_at_ns == SECOND
    assert not queue.reorder(SECOND - 1)
    assert queue.reorder(SECOND)
    assert (queue.key(early), queue.key(late)) == ((0, 0), (1, SECOND // 2))
    queue.remove(late)
    assert not queue.reorder(2 * SECOND)
    assert queue.changes_at_ns == math.inf


def test_ties_go_by_arrival_and_not_by_entry():
    queue = a_queue()
    first, second, third = (state(request(name), seq) for seq, name in enumerate("abc"))
    for waiting in (second, third, first):
        queue.push(waiting, 0)
    assert list(queue) == [first, second, third]


def test_any_request_can_be_taken_out():
    queue = a_queue()
    states = [state(request(name), seq) for seq, name in enumerate("abcd")]
    for waiting in states:
        queue.push(waiting, 0)
    queue.remove(states[1])
    assert list(queue) == [states[0], states[2], states[3]]
    assert states[1] not in queue
    assert states[2] in queue


def test_it_counts_by_class():
    queue = a_queue()
    offline = state(request("a", task_class=OFFLINE), 0)
    queue.push(offline, 0)
    queue.push(state(request("b"), 1), 0)
    queue.push(state(request("c"), 2), 0)
    assert (queue.count(OFFLINE), queue.count(ONLINE), len(queue)) == (1, 2, 3)
    queue.remove(offline)
    assert (queue.count(OFFLINE), queue.count(ONLINE), len(queue)) == (0, 2, 2)


def test_who_does_not_wait_can_not_be_taken_out():
    with pytest.raises(KeyError):
        a_queue().remove(state(request("a")))


def test_who_has_left_is_not_kept_because_its_place_would_have_changed():
    queue = WaitingQueue(Flipping())
    first = at(0, "first")
    queue.push(first, 0)  # whoever leaves behind it never comes up
    for seq in range(1, 1000):
        passing = at(seq, f"r{seq}", seq)
        queue.push(passing, 0)
        queue.remove(passing)
    assert len(queue._changes) < 100
    assert (queue.changes_at_ns, len(queue)) == (SECOND, 1)


def test_who_waits_again_has_only_its_new_time():
    queue = WaitingQueue(Flipping())
    again = at(0, "a")
    queue.push(again, 0)
    queue.remove(again)
    queue.push(again, SECOND)
    assert queue.changes_at_ns == math.inf
    assert not queue.reorder(SECOND)
