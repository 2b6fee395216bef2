"""A request's progress, changed only through its verbs."""

from types import SimpleNamespace

import pytest

from brim.core.request import RequestState, Status
from tests.helpers import compute, request, state


def admitted(prompt: int = 8, cached: int = 0, **facts) -> RequestState:
    running = state(request("a", prompt, **facts))
    running.admit(cached)
    return running


def progress(of: RequestState) -> tuple[int, int, int]:
    return of.num_computed_tokens, of.num_scheduled_tokens, of.num_tokens


def test_a_new_request_waits_and_has_computed_nothing():
    new = state(request("a", 8), arrival_seq=3)
    assert (new.status, new.arrival_seq, new.num_preemptions) == (Status.WAITING, 3, 0)
    assert progress(new) == (0, 0, 8)
    assert new.num_output_tokens == 0


def test_its_tokens_are_a_copy_of_the_prompt():
    prompt = [1, 2, 3]
    new = state(request("a", prompt))
    assert new.token_ids == (1, 2, 3)
    new.admit(0)
    new.append(4)
    assert new.token_ids == [1, 2, 3, 4]
    new.preempt()
    new.admit(0)
    assert new.token_ids == [1, 2, 3, 4]
    assert prompt == [1, 2, 3]
    assert new.request.prompt_token_ids == (1, 2, 3)


def test_an_admitted_request_starts_behind_what_was_cached():
    running = admitted(8, cached=4)
    assert running.status is Status.RUNNING
    assert progress(running) == (4, 4, 8)


def test_cached_tokens_are_those_of_the_first_admission():
    running = admitted(8, cached=0)
    running.preempt()
    running.admit(4)
    assert running.num_cached_tokens == 0


def test_scheduling_runs_ahead_of_computing():
    running = admitted(8)
    running.schedule(4)
    assert progress(running) == (0, 4, 8)
    compute(running, 4)
    assert progress(running) == (4, 4, 8)


def test_a_caught_up_request_has_always_computed_all_but_its_newest_token():
    running = admitted(8)
    running.schedule(8)
    compute(running, 8)
    assert running.num_computed_tokens == 8
    running.append(1)
    assert running.num_computed_tokens == 8
    running.append(2)
    assert running.num_computed_tokens == 9


def test_a_decoding_request_is_scheduled_by_the_step_clock_alone():
    clock = SimpleNamespace(tick=5)
    running = admitted(8)
    running.schedule(8)
    running.start_decoding(clock)
    assert running.num_scheduled_tokens == 8
    clock.tick = 7
    assert running.num_scheduled_tokens == 10


def test_a_paused_request_stays_where_the_clock_had_brought_it():
    clock = SimpleNamespace(tick=0)
    running = admitted(8)
    running.schedule(8)
    compute(running, 8)
    running.start_decoding(clock)
    running.append(1)
    clock.tick = 1
    running.append(2)
    running.stop_decoding()
    clock.tick = 9
    assert progress(running) == (9, 9, 10)


def test_a_paused_request_goes_on_with_a_chunk_of_one():
    clock = SimpleNamespace(tick=0)
    running = admitted(8)
    running.schedule(8)
    compute(running, 8)
    running.start_decoding(clock)
    running.append(1)
    running.stop_decoding()
    clock.tick = 4
    running.schedule(1)
    running.start_decoding(clock)
    compute(running, 1)
    running.append(2)
    assert progress(running) == (9, 9, 10)
    clock.tick = 5
    assert running.num_scheduled_tokens == 10


def test_a_preempted_request_has_lost_its_computed_tokens_but_not_its_output():
    running = admitted(8)
    running.schedule(8)
    compute(running, 8)
    running.append(1)
    assert running.preempt() == 8
    assert running.status is Status.PREEMPTED
    assert running.num_preemptions == 1
    assert progress(running) == (0, 0, 9)
    assert running.num_output_tokens == 1


def test_a_resumed_request_is_not_caught_up_before_it_has_computed_its_output_again():
    running = admitted(8)
    running.schedule(8)
    compute(running, 8)
    running.append(1)
    running.append(2)
    running.preempt()
    running.admit(4)
    running.schedule(4)
    compute(running, 4)
    assert progress(running) == (8, 8, 10)
    running.schedule(2)
    compute(running, 2)
    assert progress(running) == (10, 10, 10)
    running.append(3)
    assert running.num_computed_tokens == 10


def test_the_last_token_is_the_one_that_reaches_max_tokens():
    running = admitted(max_tokens=3)
    assert [running.append(1) for _ in range(3)] == [False, False, True]
    assert not running.stopped


def test_a_stop_token_is_the_last():
    running = admitted(max_tokens=9, stop_token_ids=frozenset({7}))
    assert [running.append(token_id) for token_id in (1, 7)] == [False, True]
    assert running.stopped


@pytest.mark.parametrize("min_tokens", [0, 1, 2, 3])
def test_no_stop_token_ends_an_output_of_min_tokens_or_fewer(min_tokens):
    running = admitted(max_tokens=9, min_tokens=min_tokens, stop_token_ids=frozenset({7}))
    ends = [running.append(7) for _ in range(5)]
    assert ends.index(True) == min_tokens


def test_a_stop_token_in_the_prompt_stops_nothing():
    running = state(request("a", [7, 7, 7], stop_token_ids=frozenset({7})))
    assert not running.stopped


def test_many_get_one_token_each_and_those_that_are_over_come_back():
    a, b, c = (state(request(name, 4, max_tokens=n)) for name, n in (("a", 1), ("b", 2), ("c", 1)))
    for one in (a, b, c):
        one.admit(0)
    assert RequestState.append_each((a, b, c), (1, 2, 3)) == [a, c]
    assert [s.token_ids[-1] for s in (a, b, c)] == [1, 2, 3]


def test_as_many_tokens_as_requests_must_come():
    with pytest.raises(ValueError, match="zip"):
        RequestState.append_each((state(request("a")),), ())


def test_it_shows_its_progress():
    assert repr(admitted(8, cached=4)) == "<a running 4/4/8>"
