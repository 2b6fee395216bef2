"""decide() where online and offline requests share a step's time, on boards made by hand.

A step takes 10 ms and 1 ms a token, without a guard; due times are in ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from brim.core.decide import decide
from brim.core.deciding.draft import Draft
from brim.core.deciding.online_part import online_step, prompt_works
from brim.core.deciding.spare_time import turn_to_offline
from brim.core.decision import Decision
from brim.core.estimators.due_times import Pacing
from brim.core.estimators.online_demand import OnlineDemand
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.step_time import StepShape, StepTime
from brim.core.kvcache.headroom import Headroom
from brim.core.offline.planning import Planning
from brim.core.policies.named import named
from brim.core.policies.timing import BySlack
from brim.core.policy import Policy
from brim.core.request import SLO, RequestState, RequestView
from tests.helpers import MS, OFFLINE, compute, config, request, state
from tests.unit.core.test_decide import FakeBoard, views

PS = 1_000_000_000  # in a millisecond


PLAIN = StepTime(10 * PS, PS, (), 0, 0, 0)


def rules(
    name: str = "echo",
    due_ms: dict[str, int] | None = None,
    step_time: StepTime = PLAIN,
    **changes: object,
) -> Policy:
    """`due_ms`: when those that decode are to draw their next token."""
    settings = config(policy=name, **changes)
    policy = named(settings)
    steps = RefittedStepTime(step_time, guard=0.0)
    timing = BySlack(steps, settings.max_num_batched_tokens)
    for request_id, due in (due_ms or {}).items():
        timing.watch.dues.pace(request_id, Pacing(None, due * MS), 0)
        timing.watch.dues.start(request_id, 1, 0)
    planning = None if policy.planning is None else Planning(steps, settings.block_size)
    return replace(policy, timing=timing, planning=planning)


def offline(names: str, prompt: int = 40, **facts: object) -> list[RequestState]:
    return views(names, prompt=prompt, task_class=OFFLINE, **facts)


def roomy(**facts: object) -> FakeBoard:
    return FakeBoard(**({"available_blocks": 99, "num_blocks": 99, "max_num_seqs": 8} | facts))


def decided(board: FakeBoard, policy: Policy | None = None, now_ms: int = 0) -> Decision:
    return decide(policy or rules(), board, now_ms * MS)


# ---- what the time is for


def test_an_offline_chunk_fills_the_time_until_the_next_token_is_due():
    (user,), (a,) = views("u"), offline("a")
    made = decided(roomy(running=[user], pooled=[[a]]), rules(due_ms={"u": 31}))
    assert (made.admit, made.chunk_tokens, made.miss) == ([a], {a: 20}, None)


def test_without_offline_requests_only_who_will_be_late_is_found_out():
    (user,) = views("u")
    draft = Draft(rules(due_ms={"u": 12}), roomy(running=[user]), 3 * MS)
    turn_to_offline(draft)
    assert (draft.miss, draft.time) == (("u", 2 * MS), None)


def test_without_targets_offline_work_fills_the_step():
    (user,), (a,) = views("u"), offline("a", 100)
    assert decided(roomy(running=[user], pooled=[[a]])).chunk_tokens == {a: 63}


def test_a_chunk_under_a_block_is_worth_its_while_only_of_a_short_prompt():
    """A block has 4 tokens, and a sixteenth of 40 are 3: who waits holds the blocks of its whole prompt."""
    (user,), (long,), (short,) = views("u"), offline("l", 100), offline("s", 40)
    for prompt, worth_it in ((long, 4), (short, 3)):
        board = roomy(running=[user], pooled=[[prompt]])
        assert decided(board, rules(due_ms={"u": 10 + worth_it})).admit == []
        assert decided(board, rules(due_ms={"u": 11 + worth_it})).chunk_tokens == {prompt: worth_it}


def test_but_it_is_where_there_is_nothing_else_to_run():
    """For the sake of arrivals a step may take 1.25 times the shortest, of 11 ms."""
    (a,) = offline("a")
    policy = rules(ttft_ms=20.0)
    for at in range(20):
        policy.timing.watch.arrivals.observe(at * MS, 20 * MS, 5)  # type: ignore[union-attr]
    assert decided(roomy(pooled=[[a]]), policy, now_ms=10_000).chunk_tokens == {a: 3}


def test_a_block_may_be_larger_than_a_step():
    (a,) = offline("a")
    board = roomy(pooled=[[a]], block_size=64)
    assert decided(board, rules(max_num_batched_tokens=8, max_num_seqs=8)).chunk_tokens == {a: 8}


def test_a_chunk_is_scored_as_long_as_it_will_be():
    (a,) = offline("a")
    assert decided(roomy(pooled=[[a]]), rules(max_prefill_chunk_tokens=3)).chunk_tokens == {a: 3}


def test_offline_decodes_sit_out_a_step_that_has_no_time_for_them():
    (user,), (a, b, c) = views("u"), offline("abc")
    board = roomy(running=[user, a, b, c])
    assert decided(board, rules(due_ms={"u": 14})).pause == []
    made = decided(board, rules(due_ms={"u": 12}))
    assert len(made.pause) == 2
    made = decided(board, rules(due_ms={"u": 11}))
    assert (set(made.pause), made.miss) == ({a, b, c}, None)


def test_those_that_lose_least_sit_out_first():
    (user,), (a, b) = views("u"), offline("ab")
    a.admit(0)
    a.schedule(8)
    compute(a, 8)
    assert decided(roomy(running=[user, a, b]), rules(due_ms={"u": 12})).pause == [b]


def test_a_half_done_offline_prompt_gets_the_chunk_that_there_is_time_for():
    (user,), (a, b) = views("u"), offline("ab")
    board = roomy(running=[user, a], catching_up=[a], pooled=[[b]])
    made = decided(board, rules(due_ms={"u": 21}))
    assert (made.chunk_tokens, made.admit) == ({a: 10}, [])


def test_of_paused_offline_requests_one_with_fewer_tokens_may_still_have_time():
    """A decode takes 1 ms and 0.1 ms for each token before it; 3 ms are left."""
    (user,), deep, (shallow,) = views("u"), offline("abc", 40), offline("s", 8)
    for view in (*deep, shallow):
        view.admit(view.num_tokens - 1)
    board = roomy(running=[user, *deep, shallow], catching_up=[*deep, shallow])
    policy = rules(due_ms={"u": 15}, step_time=StepTime(10 * PS, PS, (), 0, 0, PS // 10))
    made = decided(board, policy)
    assert made.chunk_tokens == {shallow: 1}


def test_an_online_prompt_goes_first_and_as_far_as_those_that_decode_can_bear():
    (user,), (x,), (a,) = views("u"), views("x", prompt=100), offline("a")
    board = roomy(running=[user], waiting=[x], pooled=[[a]])
    made = decided(board, rules(due_ms={"u": 31}))
    assert (made.admit, made.chunk_tokens) == ([x], {x: 20})


def test_a_prompt_that_does_not_fit_beside_the_decodes_does_not_run_as_a_whole():
    """In chunks of 10 tokens it would be late, but 20 of 64 tokens go to those who decode, and it has 60."""
    names = "abcdefghijklmnopqrst"
    (x,) = views("x", prompt=60, slo=SLO(ttft_ns=100 * MS))
    board = roomy(running=views(names), waiting=[x], max_num_seqs=32)
    policy = rules("brim", due_ms=dict.fromkeys(names, 40), max_num_seqs=32)
    assert decided(board, policy).chunk_tokens == {x: 10}
    (fits,) = views("x", prompt=44, slo=SLO(ttft_ns=100 * MS))
    board.waiting = [fits]
    assert decided(board, policy).chunk_tokens == {fits: 44}


def test_who_waits_online_leaves_no_time_it_needs_itself():
    """8 tokens by 40 ms, in the step after this one: 18 ms then, so 22 now; but no seat is free."""
    (user,) = views("u")
    (x,) = views("x", prompt=8, slo=SLO(ttft_ns=40 * MS))
    (a,) = offline("a")
    a.admit(0)
    board = roomy(running=[user, a], catching_up=[a], waiting=[x], need={x: 200})
    assert decided(board).chunk_tokens == {a: 11 - 1}


def test_a_predicted_miss_is_told_and_stops_offline_work():
    (user,), (a, b) = views("u"), offline("ab")
    made = decided(roomy(running=[user, a], pooled=[[b]]), rules(due_ms={"u": 30}), now_ms=25)
    assert (made.miss, made.pause, made.admit) == (("u", 6 * MS), [a], [])


def test_of_those_that_wait_a_few_are_looked_at():
    waiting = CountedQueue(offline("abcdefghijklmnopqrst") * 50)
    (user,) = views("u")
    decided(roomy(running=[user], waiting=waiting, available_blocks=0), rules("bs-e", {"u": 31}))
    assert waiting.looked_at < 40


@dataclass
class CountedQueue:
    views: Sequence[RequestView]
    looked_at: int = 0

    def __iter__(self) -> Iterator[RequestView]:
        for view in self.views:
            self.looked_at += 1
            yield view


# ---- from the pool


def test_the_longest_prefix_enters_first_and_its_family_follows():
    """The most urgent one, without a hit, would make the step longer by more than it is worth."""
    a, b, c, d = offline("abcd", 24)
    board = roomy(pooled=[[a], [b, c, d]], hits={b: 20, c: 20, d: 20})
    made = decided(board)
    assert (made.admit, made.chunk_tokens) == ([b, c, d], {b: 4, c: 4, d: 4})
    assert decided(replace(board, hits={})).admit == [a, b, c]


def test_near_its_deadline_a_request_goes_before_those_with_hits():
    """It would make the step longer by more than it is worth, but only 50 of its 1,000 ms are left."""
    (a,), (b,) = offline("a", 24, deadline_ns=1000 * MS), offline("b", 24)
    board = roomy(pooled=[[a], [b]], hits={b: 20})
    assert decided(board, now_ms=949).admit == [b]
    assert decided(board, now_ms=950).admit == [a, b]


def test_who_is_the_oldest_for_long_goes_before_those_with_hits():
    """24 tokens take 24.3 ms in large steps, 16 times that is 389 ms; and it has to have waited a second."""
    (a,), (b,) = offline("a", 24, priority=9), offline("b", 24)
    board = roomy(pooled=[[b]], hits={b: 20}, oldest=(a, 800 * MS))
    assert decided(board, patient(1000), now_ms=1188).admit == [b]
    assert decided(board, patient(1000), now_ms=1189).admit == [a, b]
    assert decided(board, patient(1190), now_ms=1189).admit == [b]


def test_its_turn_comes_before_a_deadline_and_it_keeps_its_followers():
    (a, c), (b,) = offline("ac", 24), offline("b", 24, deadline_ns=1)
    board = roomy(pooled=[[a, c], [b]], oldest=(a, 0), max_num_seqs=3)
    assert decided(board, patient(1000), now_ms=2000).admit == [a, b, c]


def test_nobody_takes_the_blocks_that_the_oldest_waits_for_unless_it_would_wait_for_others():
    (a,), (b,) = offline("a", 24), offline("b", 24)
    board = roomy(available_blocks=11, offline_blocks=50, pooled=[[b]], need={a: 60}, oldest=(a, 0))
    assert decided(board, patient(0), now_ms=1000).admit == []
    assert decided(replace(board, offline_blocks=40), patient(0), now_ms=1000).admit == [b]


def patient(patience_ms: int) -> Policy:
    policy = rules("bs-e-s")
    assert policy.timing is not None
    planning = Planning(policy.timing.steps, 4, patience_ns=patience_ms * MS)
    return replace(policy, planning=planning)


def test_seats_and_tokens_end_the_adding():
    a, b, c = offline("abc", 24)
    assert len(decided(roomy(pooled=[[a, b, c]], max_num_seqs=2)).admit) == 2
    made = decided(roomy(pooled=[[a, b, c]]), rules(max_num_batched_tokens=30))
    assert list(made.chunk_tokens.values()) == [24, 6]


def test_nobody_enters_from_the_pool_past_an_online_request_that_does_not_fit():
    (a,), (x,) = offline("a"), views("x")
    board = roomy(running=views("u"), waiting=[x], pooled=[[a]], need={x: 200})
    assert decided(board).admit == []


def test_the_headroom_is_kept_from_newcomers():
    (user,), (a, b) = views("u"), offline("ab")
    board = roomy(running=[user], pooled=[[a, b]], need={a: 6, b: 6}, online_blocks=90)
    assert decided(board, kept(0)).admit == [a]
    assert decided(replace(board, offline_blocks=4), kept(0)).admit == []
    assert decided(replace(board, online_blocks=1), kept(95)).admit == []


def test_an_idle_machine_waits_for_no_forecast():
    a, b = offline("ab")
    board = roomy(pooled=[[a, b]], need={a: 6, b: 6})
    assert decided(board, kept(99)).admit == [a]


def kept(forecast_blocks: int) -> Policy:
    demand = OnlineDemand()
    demand.forecast_blocks = forecast_blocks
    return replace(rules(), headroom=Headroom(99, demand))


def test_a_content_that_others_wait_for_is_not_given_for_less():
    """Taking b beside a costs 9 wanted blocks, 36 tokens: more than its own."""
    (user, a), (b,) = [*views("u"), *offline("a")], offline("b", 16)
    board = roomy(running=[user, a], catching_up=[a], pooled=[[b]])
    assert decided(board).admit == [b]
    assert decided(Wanted(**vars(board))).admit == []


def test_a_prompt_that_is_thought_too_dear_beside_those_who_decode_enters_with_others_all_the_same():
    """Beside a prompt each of four decodes takes 99 ms more, so no prompt of 8 tokens is worth it."""
    running, (a, b) = offline("wxyz"), offline("ab", 8)
    policy = rules("bs-e-s")
    dear = RefittedStepTime(StepTime(10 * PS, PS, (), 0, 0, 0, mixed_decode_ps=99 * PS), guard=0.0)
    policy = replace(policy, timing=BySlack(dear, 64), planning=Planning(dear, 4))
    board = roomy(running=running, pooled=[[a, b]])
    assert decided(replace(board, tick=7), policy).admit == []
    assert decided(replace(board, tick=8), policy).admit == [a, b]


def test_blocks_given_away_before_are_not_counted_twice():
    (user, a), (b, c) = [*views("u"), *offline("a")], offline("bc", 16)
    board = roomy(running=[user, a], catching_up=[a], pooled=[[b, c]], need={b: 4, c: 4})
    assert decided(Wanted(**vars(board), free=4)).admit == [b]  # the fifth block and on are wanted


@dataclass
class Wanted(FakeBoard):
    """Of the blocks behind the `free` ones each counts as many."""

    free: int = field(default=0)

    def wanted_among(self, blocks: int) -> int:
        return 4 * max(blocks - self.free, 0)


# ---- who gives way


def test_few_victims_are_tried_before_many():
    running = offline("abcdefgh")
    (x,) = views("x")
    board = Counted(**vars(roomy(running=running, waiting=[x], available_blocks=0, need={x: 2})))
    board.max_num_seqs = 20
    assert decided(board).preempt == [running[-1], running[-2]]
    assert max(board.asked) <= 2 + 2
    board = Counted(**vars(roomy(running=running, waiting=[x], max_num_seqs=8)))
    assert len(decided(board).preempt) == 1  # a seat: no block is counted to find it
    assert max(board.asked) <= 1


@dataclass
class Counted(FakeBoard):
    asked: list[int] = field(default_factory=list)

    def freeable_blocks(self, views: Sequence[RequestView]) -> int:
        self.asked.append(len(views))
        return super().freeable_blocks(views)


# ---- a step ahead


def test_a_step_in_flight_begins_when_the_one_before_is_over():
    """Decided at 12 ms, it began at 20, when the one before was over, and takes 15: until 35 ms."""
    timing = rules().timing
    assert timing is not None
    timing.watch.committed(20 * MS)
    board = roomy(steps_in_flight=[(12 * MS, StepShape(5))])
    step = online_step(timing, board, 20 * MS, [], [])
    assert (step.now_ns, step.start_ns, step.last_ns) == (20 * MS, 35 * MS, 35 * MS)


def test_who_entered_computes_what_others_have_cached_since():
    """Admitted without a hit and without time for a chunk; now the cache would hold most of its prompt."""
    (x,), timing = views("x", prompt=8), rules().timing
    x.admit(0)
    assert timing is not None
    [work] = prompt_works(timing, roomy(running=[x], catching_up=[x], hits={x: 7}), [x], {x: 4}, {})
    assert (work.start, work.num_tokens, work.tokens_now) == (0, 8, 4)


def test_two_in_flight_run_one_after_the_other():
    timing = rules().timing
    assert timing is not None
    board = roomy(steps_in_flight=[(0, StepShape(5)), (2 * MS, StepShape(10))])
    assert online_step(timing, board, 3 * MS, [], []).start_ns == 35 * MS


def test_those_that_stop_decode_no_more():
    (user, other), (a,) = views("uv"), offline("a")
    timing = rules().timing
    assert timing is not None
    step = online_step(timing, roomy(running=[user, other, a]), 0, {other, a}, [])
    assert (step.num_decodes, step.decode_context) == (1, 1)


def test_a_half_done_prompt_goes_on_where_it_stopped():
    one = state(request("a", 40, task_class=OFFLINE))
    one.admit(0)
    one.schedule(12)
    assert decided(roomy(running=[one], catching_up=[one])).chunk_tokens == {one: 28}
