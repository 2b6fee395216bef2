"""How long a step may take, and how much of it online prompts may have: 10 ms a step, 1 ms a token."""

import pytest

from brim.core.errors import ConfigError
from brim.core.estimators.due_times import Pacing
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.slack import OnlineStep, PromptWork
from brim.core.estimators.step_time import StepTime
from brim.core.policies.timing import BySlack, FixedLatency
from tests.helpers import MS

PS = 1_000_000_000  # in a millisecond


def steps() -> RefittedStepTime:
    return RefittedStepTime(StepTime(10 * PS, PS, (), 0, 0, 0), guard=0.0)


def by_slack(share: float = 1.0, **paces_ms: int) -> BySlack:
    """Each drew its first token at 0 ns."""
    rule = BySlack(steps(), 100, share)
    for name, pace_ms in paces_ms.items():
        rule.watch.dues.pace(name, Pacing(None, pace_ms * MS), 0)
        rule.watch.dues.start(name, 1, 0)
    return rule


def step(num_decodes: int, *prompts: PromptWork, now_ms: int = 0) -> OnlineStep:
    return OnlineStep(now_ms * MS, now_ms * MS, 0, 0, num_decodes, 0, prompts)


def test_the_slack_is_what_is_left_until_the_next_token_is_due():
    limit = by_slack(a=40, b=60).limit(step(2, now_ms=5))
    assert (limit.limit_ns, limit.online_ns, limit.request_id) == (35 * MS, 12 * MS, "a")


def test_a_share_of_the_slack_may_be_spent():
    assert by_slack(0.5, a=32).limit(step(2)).limit_ns == 22 * MS
    assert by_slack(0.0, a=32).limit(step(2)).limit_ns == 12 * MS
    with pytest.raises(ConfigError, match="from 0 to 1"):
        by_slack(1.5)


def test_a_miss_leaves_the_online_part():
    limit = by_slack(a=40).limit(step(1, now_ms=35))
    assert limit.limit_ns == limit.online_ns == 11 * MS
    assert limit.miss == ("a", 6 * MS)


def test_prompts_get_what_those_that_decode_can_bear():
    assert by_slack(a=40).prompt_tokens(step(2), 100) == 28
    assert by_slack().prompt_tokens(step(0), 100) == 100


def test_time_saved_is_for_prompts_too_but_a_pace_is_enough():
    rule = by_slack(a=40)
    assert rule.prompt_tokens(step(2, now_ms=30), 100) == 24  # late anyhow: nine tenths of the pace
    rule.watch.dues.pace("a", Pacing(None, 40 * MS), 50 * MS)
    assert rule.prompt_tokens(step(2), 100) == 78


def test_a_gap_is_kept_by_prompts_in_all_but_unusual_steps():
    """One step in twenty has taken 20 % longer: 48 ms leave time for 40 of the usual length."""
    rule = by_slack()
    rule.watch.dues.pace("a", Pacing(48 * MS, None), 0)
    rule.watch.dues.start("a", 1, 0)
    assert rule.prompt_tokens(step(2), 100) == 36
    for took in [1.0] * 19 + [1.2]:
        rule.steps.guard.observe(took)
    assert rule.prompt_tokens(step(2), 100) == 28


def test_a_chunk_is_as_small_as_its_place_in_the_prompt_wants_it():
    """A pair takes 0.01 ms: 100 tokens behind 1,000 take a second, and a pace of 60 ms leaves four."""
    rule = BySlack(RefittedStepTime(StepTime(10 * PS, PS, (), PS // 100, 0, 0), guard=0.0), 100)
    rule.watch.dues.pace("a", Pacing(None, 60 * MS), 0)
    rule.watch.dues.start("a", 1, 0)
    assert rule.prompt_tokens(step(1, PromptWork("p", None, 0, 100)), 100) == 40
    assert rule.prompt_tokens(step(1, PromptWork("p", None, 1_000, 100)), 100) == 4


def test_a_pace_below_half_of_the_shortest_step_holds_up_nobody():
    rule = by_slack(silly=5, a=40)
    limit = rule.limit(step(2, now_ms=20))
    assert (limit.limit_ns, limit.request_id, limit.miss) == (20 * MS, "a", None)
    assert rule.prompt_tokens(step(2), 100) == 28
    assert rule.watch.dues.due_ns("silly", 3, 0) is None
    rule.watch.dues.pace("silly", Pacing(5 * MS, None), 0)
    assert rule.limit(step(2, now_ms=20)).limit_ns == 20 * MS
    assert rule.watch.dues.least_for_first_tokens(0, 0) == 120 * MS


def test_where_no_pace_can_be_kept_the_step_is_full():
    assert by_slack(a=9).prompt_tokens(step(2), 100) == 100


def test_where_a_pace_is_hardly_kept_prompts_trickle():
    """Late by some ms of the next token; the decodes alone take 12 ms."""
    tokens = [by_slack(a=pace_ms).prompt_tokens(step(2, now_ms=30), 100) for pace_ms in (16, 15, 14, 13, 12)]
    assert tokens == [2, 1, 2, 1, 1]


def test_a_pace_that_can_not_be_kept_is_no_reason_to_break_that_of_others():
    assert by_slack(a=11, b=40).prompt_tokens(step(2), 100) == 24
    rule = by_slack(a=11, b=40)
    rule.watch.dues.pace("a", Pacing(11 * MS, None), 0)
    assert rule.prompt_tokens(step(2), 100) == 24


def test_a_fixed_latency_is_the_same_in_every_step():
    rule = FixedLatency(steps(), 30 * MS)
    assert (rule.limit(step(0)).limit_ns, rule.limit(step(0)).online_ns) == (30 * MS, 0)
    assert (rule.limit(step(5)).limit_ns, rule.limit(step(5)).online_ns) == (30 * MS, 15 * MS)
    assert rule.limit(step(0, PromptWork("p", None, 0, 50, 50))).limit_ns == 60 * MS
    assert rule.prompt_tokens(step(5), 100) == 15
