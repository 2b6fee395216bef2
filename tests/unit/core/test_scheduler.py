"""The scheduler carrying decisions out: caches of 7 blocks of 4 tokens, every step checked."""

from __future__ import annotations

from typing import Any

import pytest

from brim.core import base_scheduler
from brim.core.errors import InvariantViolated, RequestRefused
from brim.core.estimators.step_time import StepTime
from brim.core.events import Admitted, Finished, FirstToken, Tokens
from brim.core.plan import StepResult, TokenLogprobs
from brim.core.policies.named import named
from brim.core.request import SLO, FinishReason, Status
from brim.core.scheduler import Scheduler
from tests.helpers import MS, OFFLINE, Foretold, Host, config, reference, request, script
from tests.timed import TimedHost, informed

DEPTHS = pytest.mark.parametrize("depth", [1, 2])


def blocks(host: Host) -> tuple[int, int, int]:
    kv = host.scheduler.kv
    return kv.free_blocks, kv.cached_blocks, kv.used_blocks


# ---- one request


@DEPTHS
def test_a_request_runs_its_prompt_then_one_token_a_step(depth):
    host = Host(depth=depth)
    asked = request("a", 6, max_tokens=3)
    host.add(asked)
    host.run()
    assert host.rows[:3] == [[("a", 0, 6)], [("a", 6, 1)], [("a", 7, 1)]]
    assert host.outputs == {"a": reference(asked)}
    assert host.finish_reasons() == {"a": FinishReason.LENGTH}


def test_its_events_tell_the_story():
    host = Host()
    host.add(request("a", 6, max_tokens=2))
    host.run()
    story = [(type(event).__name__, event.now_ns // MS, event.step_id) for event in host.events]
    assert story == [
        ("Arrived", 0, 0),
        ("Admitted", 1, 0),
        ("FirstToken", 1, 0),
        ("Tokens", 1, 0),
        ("Tokens", 2, 1),
        ("Finished", 2, 1),
    ]


@DEPTHS
def test_a_long_prompt_runs_in_chunks_and_draws_only_at_its_end(depth):
    host = Host(config(max_num_batched_tokens=8), depth=depth)
    asked = request("a", 20, max_tokens=2)
    host.add(asked)
    host.run()
    assert host.rows[:4] == [[("a", 0, 8)], [("a", 8, 8)], [("a", 16, 4)], [("a", 20, 1)]]
    assert [chunk.samples for plan in host.plans for chunk in plan.chunks] == [False, False, True]
    assert len(host.of(FirstToken)) == 1
    assert host.outputs == {"a": reference(asked)}


def test_decodes_and_chunks_share_a_step():
    host = Host(config(max_num_batched_tokens=8))
    host.add(request("a", 4, max_tokens=9))
    host.step()
    host.add(request("b", 12, max_tokens=1))
    host.run()
    assert host.rows[1:4] == [
        [("a", 4, 1), ("b", 0, 7)],
        [("a", 5, 1), ("b", 7, 5)],
        [("a", 6, 1)],
    ]


@DEPTHS
def test_a_stop_token_ends_a_request(depth):
    asked = request("a", 6, max_tokens=9)
    third = reference(asked)[2]
    asked = request("a", 6, max_tokens=9, stop_token_ids=frozenset({third}))
    host = Host(depth=depth)
    host.add(asked)
    host.run()
    assert host.outputs["a"] == reference(asked)
    assert host.outputs["a"][-1] == third
    assert host.finish_reasons() == {"a": FinishReason.STOP}


@DEPTHS
def test_stop_tokens_do_not_end_what_is_shorter_than_min_tokens(depth):
    everything = frozenset(range(97, 97 + 26))
    host = Host(depth=depth)
    host.add(request("a", 6, max_tokens=9, min_tokens=3, stop_token_ids=everything))
    host.run()
    assert len(host.outputs["a"]) == 4
    assert host.finish_reasons() == {"a": FinishReason.STOP}


def test_logprobs_travel_with_their_tokens():
    host = Host()
    host.add(request("a", 4, max_tokens=1, logprobs=0), request("b", 4, max_tokens=1))
    host.run()
    (tokens,) = host.of(Tokens)
    assert tokens.logprobs == {"a": TokenLogprobs(host.outputs["a"][0], 0.0, ((host.outputs["a"][0], 0.0),))}


def test_a_request_leaves_its_whole_computed_blocks_to_others():
    host = Host()
    host.add(request("a", 6, max_tokens=4))  # 6 + 3 tokens have been computed
    host.run()
    assert blocks(host) == (5, 2, 0)


def test_a_plan_names_whom_it_admits_and_whom_it_releases():
    host = Host()
    host.add(request("a", 4, max_tokens=2))
    host.step()
    host.add(request("b", 4, max_tokens=2))
    host.run()
    told = [([s.request.request_id for s in plan.admitted], plan.released) for plan in host.plans]
    assert told == [(["a"], ()), (["b"], ()), ([], ("a",))]


# ---- prefixes


@DEPTHS
def test_a_known_prefix_is_not_run_again(depth):
    host = Host(depth=depth)
    first, second = request("a", range(10), max_tokens=2), request("b", [*range(9), 50], max_tokens=2)
    host.add(first)
    host.run()
    host.add(second)
    host.run()
    assert host.cached_tokens() == {"a": 0, "b": 8}
    assert ("b", 8, 2) in [row for rows in host.rows for row in rows]
    assert host.outputs == {"a": reference(first), "b": reference(second)}


def test_running_requests_share_the_blocks_of_their_prefix():
    host = Host()
    host.add(request("a", range(9), max_tokens=4))
    host.step()
    host.add(request("b", range(9), max_tokens=4))
    host.step()
    assert host.table("a")[:2] == host.table("b")[:2] == [0, 1]
    assert host.table("a")[2] != host.table("b")[2]
    host.run()
    assert host.outputs["a"] == host.outputs["b"]


def test_requests_that_enter_together_do_not_hit_what_is_not_yet_computed():
    host = Host()
    host.add(request("a", range(9)), request("b", range(9)))
    host.run()
    assert host.cached_tokens() == {"a": 0, "b": 0}


def test_a_conversation_finds_its_last_answer_in_the_cache():
    host = Host()
    first = request("a", range(6), max_tokens=7)
    host.add(first)
    host.run()
    host.add(request("b", [*range(6), *reference(first), 1, 2], max_tokens=1))
    host.run()
    assert host.cached_tokens()["b"] == 12


def test_cached_tokens_tell_of_the_first_admission_not_of_what_a_preemption_found_again():
    host = Host()
    host.add(request("a", 11, max_tokens=9), request("b", 11, max_tokens=9))
    host.run()
    assert host.preempted() == ["b"]
    resumed = [event for event in host.of(Admitted) if event.resumed]
    assert [event.cached_tokens > 0 for event in resumed] == [True]
    assert host.cached_tokens() == {"a": 0, "b": 0}


# ---- want of blocks


@DEPTHS
def test_in_want_of_blocks_the_newest_is_recomputed_later_and_says_the_same(depth):
    host = Host(depth=depth)
    a, b = request("a", 11, max_tokens=9), request("b", 11, max_tokens=9)
    host.add(a, b)
    host.run()
    assert {*host.preempted()} == {"b"}
    assert host.outputs == {"a": reference(a), "b": reference(b)}
    assert blocks(host)[2] == 0


def test_at_depth_one_the_starved_request_goes_on_in_the_same_step():
    host = Host(config(block_size=1, max_model_len=7))
    host.add(request("a", 3, max_tokens=4), request("b", 3, max_tokens=4))
    host.step()
    assert blocks(host) == (0, 0, 7)  # a got the last block, b starves
    host.step()
    assert (host.rows[-1], host.preempted()) == ([("a", 3, 1)], ["b"])


def test_at_depth_two_the_starved_request_pauses_until_the_blocks_are_given_back():
    host = Host(config(block_size=1, max_model_len=7), depth=2)
    a, b = request("a", 3, max_tokens=4), request("b", 3, max_tokens=4)
    host.add(a, b)
    host.run()
    assert host.rows[:4] == [[("a", 0, 3), ("b", 0, 3)], [("a", 3, 1)], [("a", 4, 1)], [("a", 5, 1)]]
    assert host.outputs == {"a": reference(a), "b": reference(b)}


def test_a_paused_request_keeps_its_blocks_and_goes_on_where_it_was():
    host = Host(config(block_size=1, max_model_len=7), depth=2)
    a, b = request("a", 3, max_tokens=4), request("b", 4, max_tokens=3)
    host.add(a, b)
    host.step()
    assert not host.step()
    assert host.table("a")[:3] == [0, 1, 2]
    host.step()
    assert host.rows == [[("a", 0, 3), ("b", 0, 4)], [], [("a", 3, 1)]]
    host.run()
    assert host.outputs == {"a": reference(a), "b": reference(b)}


def test_at_depth_two_the_blocks_of_a_victim_stay_used_while_its_step_is_in_flight():
    host = Host(config(policy="priority", max_num_seqs=1), depth=2)
    host.add(request("a", 12, max_tokens=6, task_class=OFFLINE))
    host.step()
    assert blocks(host) == (4, 0, 3)
    host.add(request("b", 8, max_tokens=2))
    plan = host.scheduler.schedule(host.now_ns)
    assert [chunk.state.request.request_id for chunk in plan.chunks] == ["b"]
    assert blocks(host) == (1, 0, 6)  # four of the victim, two of the newcomer


def test_online_takes_the_place_of_offline():
    host = Host(config(policy="priority"))
    offline, online = request("o", 20, max_tokens=6, task_class=OFFLINE), request("n", 20, max_tokens=2)
    host.add(offline)
    host.step()
    host.add(online)
    host.step()
    assert host.rows[-1] == [("n", 0, 20)]
    host.run()
    assert host.preempted() == ["o"]
    assert host.outputs == {"o": reference(offline), "n": reference(online)}


# ---- abort


@DEPTHS
def test_a_waiting_request_can_be_aborted(depth):
    host = Host(config(max_num_seqs=1), depth=depth)
    host.add(request("a", 4, max_tokens=3), request("b", 4))
    host.step()
    assert host.scheduler.abort("b", host.now_ns)
    host.run()
    assert host.finish_reasons() == {"b": FinishReason.ABORT, "a": FinishReason.LENGTH}
    assert "b" not in host.cached_tokens()


@DEPTHS
def test_a_half_done_prompt_can_be_aborted(depth):
    host = Host(config(max_num_batched_tokens=8), depth=depth)
    host.add(request("a", 20))
    host.step()
    assert host.scheduler.abort("a", host.now_ns)
    host.run()
    assert host.outputs == {"a": []}
    assert blocks(host)[2] == 0


@DEPTHS
def test_a_decoding_request_can_be_aborted_and_keeps_what_it_said(depth):
    host = Host(depth=depth)
    asked = request("a", 4, max_tokens=9)
    host.add(asked)
    for _ in range(4):
        host.step()
    said = list(host.outputs["a"])
    assert host.scheduler.abort("a", host.now_ns)
    host.run()
    assert said
    assert host.outputs["a"] == said == reference(asked)[: len(said)]
    (finished,) = host.of(Finished)
    assert finished.num_output_tokens == len(said)


@DEPTHS
def test_a_preempted_request_can_be_aborted(depth):
    host = Host(depth=depth)
    host.add(request("a", 11, max_tokens=9), request("b", 11, max_tokens=9))
    while not host.preempted():
        host.step()
    assert host.state("b").status is Status.PREEMPTED
    assert host.scheduler.abort("b", host.now_ns)
    host.run()
    assert host.finish_reasons() == {"b": FinishReason.ABORT, "a": FinishReason.LENGTH}


def test_a_paused_request_can_be_aborted():
    host = Host(config(block_size=1, max_model_len=7), depth=2)
    host.add(request("a", 3, max_tokens=4), request("b", 4, max_tokens=3))
    host.step()
    assert not host.step()  # b is preempted, a pauses until b's blocks are given back
    assert (host.preempted(), list(host.scheduler.batch.catching_up)) == (["b"], [host.state("a")])
    assert host.scheduler.abort("a", host.now_ns)
    host.run()
    assert host.finish_reasons() == {"a": FinishReason.ABORT, "b": FinishReason.LENGTH}


def test_a_token_in_flight_is_dropped_with_its_request():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 3), 0)
    scheduler.add(request("b", 3), 0)
    plan = scheduler.schedule(0)
    scheduler.abort("a", 0)
    assert scheduler.kv.used_blocks == 2  # the device may still be writing
    events = scheduler.commit(plan, StepResult([7, 8]), 0)
    assert [(e.states[0].request.request_id, e.token_ids) for e in events if isinstance(e, Tokens)] == [
        ("b", [8])
    ]
    assert [e.request_id for e in events if isinstance(e, FirstToken)] == ["b"]
    scheduler.check()
    assert scheduler.kv.used_blocks == 1


def test_at_depth_two_blocks_are_used_until_the_newest_step_that_writes_them_is_over():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 4, max_tokens=9), 0)
    first, second = scheduler.schedule(0), scheduler.schedule(0)
    scheduler.abort("a", 0)
    events = scheduler.commit(first, StepResult([7]), 0)
    assert scheduler.kv.used_blocks == 2
    events += scheduler.commit(second, StepResult([8]), 0)
    assert scheduler.kv.used_blocks == 0
    assert not [event for event in events if isinstance(event, Tokens)]


def test_who_is_over_can_not_be_aborted():
    host = Host()
    host.add(request("a"))
    host.run()
    assert not host.scheduler.abort("a", host.now_ns)
    assert not host.scheduler.abort("nobody", host.now_ns)
    assert host.finish_reasons() == {"a": FinishReason.LENGTH}


def test_an_abort_may_say_another_reason():
    host = Host()
    host.add(request("a"))
    host.scheduler.abort("a", 0, FinishReason.STOP)
    host.step()
    assert host.finish_reasons() == {"a": FinishReason.STOP}


def test_an_id_can_be_used_again_once_its_request_is_over():
    host = Host()
    host.add(request("a"))
    host.run()
    host.add(request("a"))
    host.run()
    assert len(host.of(Finished)) == 2


# ---- errors


@DEPTHS
def test_a_request_that_fails_fails_alone(depth):
    host = Host(depth=depth)
    a, b = request("a", 4, max_tokens=3), request("b", 4, max_tokens=3)
    host.add(a, b)
    while not host.idle:
        host.step(errors={"a": "no luck"})
    assert host.finish_reasons() == {"a": FinishReason.ERROR, "b": FinishReason.LENGTH}
    assert host.outputs == {"a": [], "b": reference(b)}
    assert [event.message for event in host.of(Finished)] == ["no luck", None]


def test_blocks_of_a_failed_step_are_not_found_by_others():
    host = Host()
    host.add(request("a", range(9)))
    host.step(errors={"a": "non-finite"})
    host.add(request("b", range(9)))
    host.run()
    assert host.cached_tokens()["b"] == 0


def test_an_error_of_an_aborted_request_changes_nothing():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 4), 0)
    plan = scheduler.schedule(0)
    scheduler.abort("a", 0)
    events = scheduler.commit(plan, StepResult([0], errors={"a": "late"}), 0)
    assert [e.reason for e in events if isinstance(e, Finished)] == [FinishReason.ABORT]


def test_an_error_does_not_end_the_next_request_of_that_id():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 4), 0)
    plan = scheduler.schedule(0)
    scheduler.abort("a", 0)
    scheduler.add(request("a", 4), 0)
    events = scheduler.commit(plan, StepResult([0], errors={"a": "late"}), 0)
    assert [e.reason for e in events if isinstance(e, Finished)] == [FinishReason.ABORT]
    assert len(scheduler) == 1


# ---- refusals and misuse


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        (request("a", []), "prompt", None),
        (request("a", 4, max_tokens=0), "max_tokens", None),
        (request("a", 4, max_tokens=25), "max_tokens", "context_length_exceeded"),
        (request("a", 28, max_tokens=1), "prompt", "context_length_exceeded"),
        (request("a", 4, max_tokens=2**63), "max_tokens", "context_length_exceeded"),
    ],
)
def test_what_could_never_run_is_refused(asked, param, code):
    scheduler = Scheduler(config())
    with pytest.raises(RequestRefused) as refusal:
        scheduler.add(asked, 0)
    assert (refusal.value.param, refusal.value.code) == (param, code)
    assert len(scheduler) == 0
    assert scheduler.take_events() == []


def test_a_request_that_just_fits_runs():
    host = Host()
    host.add(request("a", 27, max_tokens=1), request("b", 1, max_tokens=27))
    host.run()
    assert set(host.finish_reasons().values()) == {FinishReason.LENGTH}


def test_an_id_in_use_is_refused():
    scheduler = Scheduler(config())
    scheduler.add(request("a"), 0)
    with pytest.raises(RequestRefused) as refusal:
        scheduler.add(request("a"), 0)
    assert refusal.value.code == "duplicate_request_id"


def test_only_the_oldest_step_in_flight_can_be_committed():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 4, max_tokens=9), 0)
    first, second = scheduler.schedule(0), scheduler.schedule(0)
    with pytest.raises(InvariantViolated, match="step 1 is not the oldest"):
        scheduler.commit(second, StepResult([7]), 0)
    scheduler.commit(first, StepResult([7]), 0)
    with pytest.raises(InvariantViolated, match="step 0 is not the oldest"):
        scheduler.commit(first, StepResult([7]), 0)


def test_three_steps_can_not_be_in_flight():
    scheduler = Scheduler(config())
    scheduler.add(request("a", 4, max_tokens=9), 0)
    scheduler.schedule(0)
    scheduler.schedule(0)
    with pytest.raises(InvariantViolated, match="two steps are in flight"):
        scheduler.schedule(0)


def test_an_empty_plan_is_not_to_be_committed():
    scheduler = Scheduler(config())
    plan = scheduler.schedule(0)
    assert not plan
    with pytest.raises(InvariantViolated):
        scheduler.commit(plan, StepResult([]), 0)


@pytest.mark.parametrize("token_ids", [[], [1, 2]])
def test_as_many_tokens_as_were_sampled_must_come_back(token_ids):
    scheduler = Scheduler(config())
    scheduler.add(request("a"), 0)
    plan = scheduler.schedule(0)
    with pytest.raises(InvariantViolated, match="tokens came back for 1 requests"):
        scheduler.commit(plan, StepResult(token_ids), 0)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda s: s._states.popitem(), "running \\+ waiting is not all"),
        (lambda s: next(iter(s.batch)).finish(), "is not running"),
        (lambda s: next(iter(s.batch)).block_ids.clear(), "holders"),
    ],
)
def test_check_finds_broken_books(break_it, complaint):
    host = Host()
    host.add(request("a", 4, max_tokens=9))
    host.step()
    break_it(host.scheduler)
    with pytest.raises(InvariantViolated, match=complaint):
        host.scheduler.check()


# ---- quiet steps


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every decision that is taken."""
    taken: list[int] = []

    def counted(policy, board, now_ns):
        taken.append(now_ns)
        return decide(policy, board, now_ns)

    decide = base_scheduler.decide
    monkeypatch.setattr(base_scheduler, "decide", counted)
    return taken


def quiet_host(depth: int = 1, **changes) -> Host:
    """Two requests that decode, and nothing else to think of."""
    host = Host(config(max_num_seqs=2, **changes), depth=depth)
    host.add(request("a", 4, max_tokens=9), request("b", 4, max_tokens=9))
    for _ in range(3):
        host.step()
    return host


def settled_host(depth: int = 1) -> Host:
    """The same, and a third that waits for a seat."""
    host = quiet_host(depth)
    host.add(request("w", 4, max_tokens=9))
    host.step()
    return host


@DEPTHS
def test_a_quiet_step_takes_no_decision_and_makes_no_new_rows(depth, decisions):
    host = quiet_host(depth)
    decisions.clear()
    first, second = host.step(), host.step()
    assert decisions == []
    assert second.decodes is first.decodes
    assert second.sampling() is first.decodes


def test_a_quiet_schedule_reads_no_request(monkeypatch):
    host = quiet_host()
    asked: list[str] = []

    def spy(state, name):
        asked.append(name)
        return object.__getattribute__(state, name)

    monkeypatch.setattr("brim.core.request.RequestState.__getattribute__", spy, raising=False)
    plan = host.scheduler.schedule(host.now_ns)
    monkeypatch.undo()
    assert len(plan.decodes) == 2
    assert asked == []


def wakes(host: Host, decisions: list[int]) -> bool:
    """Whether the coming step takes a decision although the one before took none."""
    decisions.clear()
    host.step()
    return bool(decisions)


def test_a_waiting_request_that_can_not_enter_leaves_the_steps_quiet(decisions):
    host = quiet_host()
    host.add(request("c"))
    assert wakes(host, decisions)  # once, to see that there is no seat
    assert not wakes(host, decisions)


@DEPTHS
def test_where_nobody_is_left_to_decide_on_no_decision_is_taken(depth, decisions):
    host = quiet_host(depth)
    decisions.clear()
    host.scheduler.abort("a", host.now_ns)
    for _ in range(2):
        host.step()
    assert decisions == []


@DEPTHS
def test_an_arrival_ends_the_quiet(depth, decisions):
    host = quiet_host(depth)
    host.add(request("c"))
    assert wakes(host, decisions)


@DEPTHS
def test_an_abort_of_the_running_ends_the_quiet(depth, decisions):
    host = settled_host(depth)
    host.scheduler.abort("a", host.now_ns)
    assert wakes(host, decisions)


def test_an_abort_of_the_waiting_ends_the_quiet(decisions):
    host = quiet_host()
    host.add(request("c", 20), request("d", 1))
    host.step()
    host.scheduler.abort("c", host.now_ns)
    assert wakes(host, decisions)


@DEPTHS
def test_an_error_ends_the_quiet(depth, decisions):
    host = settled_host(depth)
    host.step(errors={"a": "no luck"})
    assert wakes(host, decisions)


@DEPTHS
def test_a_finished_request_ends_the_quiet(depth, decisions):
    host = settled_host(depth)
    while not host.finish_reasons():
        host.step()
    assert wakes(host, decisions)


def test_want_of_a_block_ends_the_quiet(decisions):
    host = Host(config(max_num_seqs=2))
    host.add(request("a", 10, max_tokens=12), request("b", 10, max_tokens=12))
    for _ in range(3):
        host.step()
    while not host.preempted():
        decisions.clear()
        host.step()
    assert len(decisions) == 1


MACHINE = StepTime(10**9, 10**9, (), 0, 0, 0)  # 1 ms, and 1 ms a token


def timed_host(depth: int = 1, *, itl_ms: int, **changes) -> TimedHost:
    """An online request and an offline one decode; others wait offline for a seat."""
    settings = config(policy="echo", max_num_seqs=2, num_blocks=40, **changes)
    host = TimedHost(settings, MACHINE, depth=depth, policy=informed(settings, MACHINE))
    host.add(request("a", 4, max_tokens=30, slo=SLO(itl_ns=itl_ms * MS)))
    host.add(*(request(name, 4, max_tokens=30, task_class=OFFLINE) for name in "bcd"))
    for _ in range(5):
        host.step()
    return host


@DEPTHS
def test_a_step_in_which_only_time_went_by_takes_no_decision_while_it_is_enough(depth, decisions):
    host = timed_host(depth, itl_ms=50)
    assert {row[0] for row in host.rows[-1]} == {"a", "b"}
    assert not any(wakes(host, decisions) for _ in range(10))
    host.scheduler.abort("b", host.now_ns)
    assert wakes(host, decisions)


def test_a_decision_is_taken_where_the_time_is_too_short_for_all_who_decode(decisions):
    host = timed_host(itl_ms=2)
    decisions.clear()
    host.step()
    assert decisions
    assert [row[0] for row in host.rows[-1]] == ["a"]


def test_who_waits_offline_for_a_seat_changes_nothing(decisions):
    host = timed_host(itl_ms=50)
    host.add(request("e", task_class=OFFLINE))
    assert not wakes(host, decisions)
    host.add(request("f"))  # online: somebody may have to give way
    assert wakes(host, decisions)


def test_a_finished_request_makes_room_for_the_one_that_waits_in_the_next_step():
    host = quiet_host()
    host.add(request("c", 4, max_tokens=1))
    while not host.finish_reasons():
        host.step()
    host.step()
    assert ("c", 0, 4) in host.rows[-1]


# ---- the script is what the outputs are held to


def test_the_reference_depends_on_every_token():
    tokens = list(range(50))
    assert len({script([*tokens[:at], 999, *tokens[at + 1 :]]) for at in range(50)}) > 10


def test_a_newcomer_that_hits_its_victims_output_runs_only_what_it_lacks():
    host = Host(config(policy="priority", max_num_seqs=1))
    host.add(request("v", [1, 2, 3, 4], 20, task_class=OFFLINE))
    for _ in range(7):
        host.step()
    said = host.outputs["v"][:6]
    newcomer = request("x", [1, 2, 3, 4, *said, 9, 9], 2)
    host.add(newcomer)
    host.step()
    assert host.preempted() == ["v"]
    assert host.rows[-1] == [("x", 8, 4)]
    host.run()
    assert host.outputs["x"] == reference(newcomer)


def test_offline_gives_way_to_an_online_request_that_needs_the_whole_cache():
    host = Host(config(policy="priority"))
    host.add(request("v", 20, 8, task_class=OFFLINE))
    host.step()
    host.add(request("x", 26, 2))
    host.step()
    assert host.preempted() == ["v"]
    assert host.rows[-1] == [("x", 0, 26)]


def test_at_depth_2_a_request_whose_last_token_is_in_flight_takes_no_further_block():
    host = Host(config(num_blocks=2, max_model_len=8), depth=2)
    host.add(request("a", 3, 2))  # its last token is drawn from position 3, the end of its block
    host.add(request("b", 3, 2, arrival_ns=1))
    host.run()
    assert host.preempted() == []
    assert host.finish_reasons() == {"a": FinishReason.LENGTH, "b": FinishReason.LENGTH}


def test_at_depth_2_a_request_that_ends_by_itself_is_not_preempted_for_its_blocks():
    host = Host(config(num_blocks=4, block_size=2, max_model_len=8, enable_prefix_caching=False), depth=2)
    host.add(request("a", 3, 5), request("b", 2, 2, arrival_ns=1))  # b's last token is in flight when
    host.run()  # a needs a block: a waits for it
    assert host.preempted() == []
    assert host.finish_reasons() == {"a": FinishReason.LENGTH, "b": FinishReason.LENGTH}


@DEPTHS
def test_no_row_is_run_for_a_token_that_is_not_wanted(depth):
    host = Host(depth=depth)
    host.add(request("a", 6, 5), request("b", 4, 1))
    host.run()
    assert sum(len(rows) for rows in host.rows) == 1 + 4 + 1


def test_offline_requests_that_share_a_prefix_give_way_together():
    """Each of them alone would free one block; only together do they free what they share."""
    host = Host(config(num_blocks=10, max_model_len=40, policy="priority"))
    shared = list(range(16))
    host.add(request("u", [*shared, 91], 20, task_class=OFFLINE))
    host.step()
    host.add(*(request(name, [*shared, 92 + at], 20, task_class=OFFLINE) for at, name in enumerate("vw")))
    host.step()
    host.step()
    host.add(request("x", 30, 2))
    host.step()
    assert sorted(host.preempted()) == ["u", "v", "w"]
    assert host.rows[-1] == [("x", 0, 30)]


def test_of_two_offline_requests_the_one_due_later_gives_way():
    host = Host(config(policy="priority"))
    host.add(request("late", 10, 8, task_class=OFFLINE, deadline_ns=1000 * MS))
    host.step()
    host.add(request("soon", 10, 8, task_class=OFFLINE, arrival_ns=MS, deadline_ns=10 * MS))
    host.run()
    assert set(host.preempted()) == {"late"}


# ---- what is characteristic of each named policy


def foretold(policy: str, *, depth: int = 1, lengths: dict[str, int], **changes) -> Host:
    """A host whose predictor knows these lengths; nothing is padded, and nothing kept in reserve."""
    exact = {"reserve_share": 0.0, "length_padding": 0.0, "enable_prefix_caching": False}
    settings = config(policy=policy, **(exact | changes))
    return Host(settings, depth=depth, policy=named(settings, Foretold(lengths)))


def most_at_once(host: Host) -> int:
    host.run()
    return max(len(rows) for rows in host.rows)


@DEPTHS
def test_vllm_2023_runs_prompts_in_steps_of_their_own(depth):
    host = Host(config(policy="vllm-2023"), depth=depth)
    a, b = request("a", 4, max_tokens=5), request("b", 6, max_tokens=3)
    host.add(a)
    host.step()
    host.step()
    held = host.state("a").num_scheduled_tokens, host.scheduler.batch.tick
    host.add(b)
    host.step()
    assert host.rows[-1] == [("b", 0, 6)]
    assert (host.state("a").num_scheduled_tokens, host.scheduler.batch.tick) == held
    host.run()
    assert host.rows[3] == [("a", 5, 1), ("b", 6, 1)]
    assert host.outputs == {"a": reference(a), "b": reference(b)}


def test_orca_reserves_the_maximum_and_s3_what_is_expected():
    for name, at_once in (("orca", 1), ("fastserve", 1), ("s3", 2), ("econoserve-sd", 2), ("vllm", 2)):
        host = foretold(name, lengths={"a": 3, "b": 3})
        for other in "ab":
            stop = reference(request(other, 4, 12))[2]
            host.add(request(other, 4, 12, stop_token_ids=frozenset([stop]), min_tokens=2))
        assert (name, most_at_once(host)) == (name, at_once)


def test_s3_keeps_the_whole_promise_from_newcomers():
    host = foretold("s3", lengths={"a": 16, "b": 4})
    host.add(request("a", 4, 16), request("b", 8, 4))
    host.step()
    assert host.rows[-1] == [("a", 0, 4)]
    kv = host.scheduler.kv
    assert (kv.used_blocks, kv.promised_blocks, kv.available_blocks) == (2, 5, 2)


@DEPTHS
@pytest.mark.parametrize("policy", ["s3", "econoserve-sd", "econoserve"])
def test_who_outgrows_its_promise_waits_with_its_kv_and_goes_on_where_it_was(policy, depth):
    host = foretold(policy, depth=depth, num_blocks=10, lengths={"a": 16, "b": 2})
    a, b = request("a", 4, 16), request("b", 11, 20)  # 5 blocks, and 4 of the 8 that it will need
    host.add(a)
    for _ in range(2):
        host.step()
    host.add(b)
    host.run()
    assert host.outputs == {"a": reference(a), "b": reference(b)}
    assert host.preempted() == []
    of_b = [(at, start) for at, rows in enumerate(host.rows) for name, start, _ in rows if name == "b"]
    steps, starts = zip(*of_b, strict=True)
    assert starts == (0, *range(11, 11 + 19))  # nothing is computed twice
    assert steps[-1] - steps[1] > len(steps)  # it did wait
    assert all("a" in [name for name, _, _ in rows] for rows in host.rows[2:16])


def test_who_outgrew_its_promise_is_expected_to_need_more():
    host = foretold("s3", num_blocks=9, lengths={"a": 16, "b": 2})  # with 5 blocks and 4 no more is left
    host.add(request("a", 4, 16), request("b", 11, 20))
    for _ in range(9):
        host.step()
    b = host.state("b")
    assert (list(host.scheduler.queues.parked), b.num_tokens, b.expected_tokens) == ([b], 17, 11 + 8)


def test_the_reserve_is_for_those_who_outgrow_their_promise():
    lengths = {"a": 4, "b": 44, "c": 16}
    host = foretold("econoserve-sd", num_blocks=20, reserve_share=0.2, lengths=lengths)
    host.add(request("a", 4, 16), request("b", 4, 44), request("c", 4, 16))
    for _ in range(4):
        host.step()
    kv = host.scheduler.kv
    assert (kv.promised_blocks, kv.available_blocks) == (2 + 12 + 1, 5)  # four of them are the reserve
    assert list(host.scheduler.queues.parked) == [host.state("c")]  # it may not have them
    host.run()
    assert host.scheduler.allocation_failures > 0
    ran = {
        name: [at for at, rows in enumerate(host.rows) if name in [row[0] for row in rows]] for name in "ac"
    }
    assert ran["a"] == list(range(ran["a"][0], ran["a"][0] + 16))  # it did not wait
    assert ran["c"][1] > ran["a"][-1]


def test_what_is_not_used_of_a_promise_is_given_back_at_once():
    stop = reference(request("a", 4, 12))[1]
    host = foretold("s3", lengths={"a": 12})
    host.add(request("a", 4, 12, stop_token_ids=frozenset([stop]), min_tokens=1))
    host.step()
    assert host.scheduler.kv.available_blocks == 3
    host.run()
    assert host.scheduler.kv.available_blocks == 7


def test_multires_takes_the_request_that_fits_what_is_left_best():
    host = foretold("multires", max_num_batched_tokens=20, lengths={"a": 2, "b": 2})
    host.add(request("a", 4, 2), request("b", 20, 2))
    host.step()
    assert host.rows[-1] == [("b", 0, 20)]


def test_sarathi_cuts_prompts_to_its_budget():
    limits = {"num_blocks": 200, "max_num_batched_tokens": 1024}
    for name, tokens in (("sarathi", 512), ("vllm", 600)):
        host = Host(config(policy=name, **limits))
        host.add(request("a", 600))
        host.step()
        assert host.rows == [[("a", 0, tokens)]]


def test_econoserve_fills_to_the_target_forward_size():
    host = foretold("econoserve-d", target_forward_tokens=6, num_blocks=20, lengths={"a": 9, "b": 9})
    host.add(request("a", 4, 9))
    for _ in range(2):
        host.step()
    host.add(request("b", 12, 9))
    host.step()
    host.step()
    assert host.rows[-2:] == [[("a", 5, 1), ("b", 0, 5)], [("a", 6, 1), ("b", 5, 5)]]


@DEPTHS
def test_a_prompt_that_is_computed_waits_in_the_second_queue_for_its_output(depth):
    host = foretold("econoserve-sd", depth=depth, lengths={"a": 16, "b": 8}, num_blocks=8)
    a, b = request("a", 4, 16), request("b", 4, 8)  # 5 + 3 blocks, and one is kept for prompts
    host.add(a, b)
    while "b" not in {s.request.request_id for s in host.scheduler.queues.parked}:
        host.step()
    host.step()
    assert [s.request.request_id for s in host.scheduler.batch.rows()] == ["a"]
    assert (list(host.scheduler.queues.parked), len(host.table("b"))) == ([host.state("b")], 1)
    host.run()
    assert host.outputs == {"a": reference(a), "b": reference(b)}
    assert host.preempted() == []


@DEPTHS
def test_a_parked_request_can_be_aborted(depth):
    host = foretold("econoserve-sd", depth=depth, lengths={"a": 16, "b": 8}, num_blocks=8)
    host.add(request("a", 4, 16), request("b", 4, 8))
    while "b" not in {s.request.request_id for s in host.scheduler.queues.parked}:
        host.step()
    assert host.scheduler.abort("b", host.now_ns)
    host.run()
    assert host.finish_reasons() == {"b": FinishReason.ABORT, "a": FinishReason.LENGTH}
    assert blocks(host)[2] == 0


def test_a_guest_gives_way_to_its_host_and_is_recomputed():
    host = foretold("econoserve", num_blocks=16, prompt_floor_tokens=8, lengths={"host": 44, "guest": 4})
    asked, grown = request("host", [1] * 4, 44), request("guest", [2] * 4, 40)
    host.add(asked)
    for _ in range(18):
        host.step()
    host.add(grown)
    host.run()
    assert set(host.preempted()) == {"guest"}
    assert host.outputs == {"host": reference(asked), "guest": reference(grown)}
    ends = {event.request_id: event.step_id for event in host.of(Finished)}
    assert ends["host"] == 43  # the prompt's step and 43 more: it never waited
    assert host.scheduler.kv.lent_blocks == 0


def test_a_host_that_leaves_early_leaves_the_guest_its_loan():
    room = {"num_blocks": 16, "prompt_floor_tokens": 8, "loan_buffer_tokens": 2}
    host = foretold("econoserve", lengths={"host": 44, "guest": 8}, **room)
    host.add(request("host", [1] * 4, 44))
    for _ in range(18):
        host.step()
    host.add(request("guest", [2] * 4, 8))
    for _ in range(3):
        host.step()
    ledger, guest = host.scheduler.kv.ledger, host.state("guest")
    assert (ledger.is_guest(guest), host.scheduler.kv.lent_blocks) == (True, 2)
    host.scheduler.abort("host", host.now_ns)
    assert (ledger.is_guest(guest), host.scheduler.kv.lent_blocks) == (False, 0)
    host.run()
    assert (host.preempted(), host.scheduler.allocation_failures) == ([], 0)


def test_quiet_steps_taken_in_at_once_can_be_looked_at_after_the_first():
    """The prompt fills block 0, the next four tokens block 1: block 2 is given before the fifth."""
    host = Host()
    host.add(request("a", 4, max_tokens=20))
    for _ in range(4):
        host.step()
    scheduler, seen = host.scheduler, []
    assert (scheduler.kv.used_blocks, scheduler.quiet_steps(host.now_ns)) == (2, 15)
    ends_ns = [host.now_ns + (i + 1) * MS for i in range(6)]
    scheduler.skip(7, host.now_ns, ends_ns, lambda: seen.append(scheduler.kv.used_blocks))
    assert (seen, scheduler.kv.used_blocks) == ([3], 4)


def test_quiet_steps_taken_in_at_once_leave_the_due_times_of_single_ones():
    """An answer that is due as a whole: what is left of its time is spread anew on the way."""

    def due_after_50_steps(*, at_once: bool) -> Any:
        scheduler = Scheduler(config(policy="echo", num_blocks=99, max_model_len=300, block_size=4))
        scheduler.add(request("a", 4, max_tokens=200, slo=SLO(e2e_ns=20_000 * MS)), 0)
        now_ns = steps = 0
        while steps < 50:
            ends_ns = [now_ns + (i + 1) * 101 * MS for i in range(50 - steps)]
            if at_once and scheduler.quiet_steps(now_ns) >= len(ends_ns):
                taken = scheduler.skip(7, now_ns, ends_ns)
            else:
                taken, plan = 1, scheduler.schedule(now_ns)
                scheduler.commit(plan, StepResult([7]), ends_ns[0])
            now_ns, steps = ends_ns[taken - 1], steps + taken
        timing = scheduler.policy.timing
        assert timing is not None
        return timing.watch.dues.least(scheduler.batch.tick, now_ns)

    due = due_after_50_steps(at_once=False)
    assert due is not None
    assert due == due_after_50_steps(at_once=True)


def test_whoever_waits_again_is_expected_to_answer_more_than_it_has():
    limits = config(policy="srtf", num_blocks=40)
    host = Host(limits, policy=named(limits, Foretold({"a": 2, "b": 2})))
    host.add(request("a", 4, max_tokens=60))
    for _ in range(20):
        host.step()
    a = host.state("a")
    host.scheduler._preempt(a, host.now_ns)
    assert a.expected_tokens > a.num_tokens == 24
