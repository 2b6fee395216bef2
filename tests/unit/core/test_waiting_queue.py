"""The waiting requests, in order of a key."""

import pytest

from brim.core.waiting import WaitingQueue
from tests.helpers import OFFLINE, ONLINE, request, state


def test_smaller_keys_go_first():
    queue = WaitingQueue()
    a, b, c = (state(request(name)) for name in "abc")
    for waiting, key in ((a, (2,)), (b, (0,)), (c, (1,))):
        queue.push(waiting, key)
    assert list(queue) == [b, c, a]


def test_ties_go_by_arrival_and_not_by_entry():
    queue = WaitingQueue()
    first, second, third = (state(request(name), seq) for seq, name in enumerate("abc"))
    for waiting in (second, third, first):
        queue.push(waiting, (0,))
    assert list(queue) == [first, second, third]


def test_any_request_can_be_taken_out():
    queue = WaitingQueue()
    states = [state(request(name), seq) for seq, name in enumerate("abcd")]
    for waiting in states:
        queue.push(waiting, (0,))
    queue.remove(states[1])
    assert list(queue) == [states[0], states[2], states[3]]
    assert states[1] not in queue
    assert states[2] in queue


def test_it_counts_by_class():
    queue = WaitingQueue()
    offline = state(request("a", task_class=OFFLINE), 0)
    queue.push(offline, (0,))
    queue.push(state(request("b"), 1), (0,))
    queue.push(state(request("c"), 2), (0,))
    assert (queue.count(OFFLINE), queue.count(ONLINE), len(queue)) == (1, 2, 3)
    queue.remove(offline)
    assert (queue.count(OFFLINE), queue.count(ONLINE), len(queue)) == (0, 2, 2)


def test_who_does_not_wait_can_not_be_taken_out():
    with pytest.raises(KeyError):
        WaitingQueue().remove(state(request("a")))
