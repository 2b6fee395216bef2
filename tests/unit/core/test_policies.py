"""Each rule alone: a key or a number."""

import pytest

from brim.core.errors import ConfigError
from brim.core.policies.admitting import Watermark
from brim.core.policies.chunking import FillTheBudget, WholePrompts
from brim.core.policies.filling import FixedBudget
from brim.core.policies.named import NAMED, named
from brim.core.policies.ordering import FirstComeFirstServed, OnlineFirst
from brim.core.policies.preempting import LastComeFirstPreempted, OfflineFirst
from tests.helpers import OFFLINE, config, request, state

A = state(request("a", arrival_ns=1), 0)
B = state(request("b", arrival_ns=2), 1)
URGENT = state(request("u", arrival_ns=9, priority=-1), 2)
LAZY = state(request("l", arrival_ns=0, priority=1), 3)
BATCH = state(request("o", arrival_ns=0, task_class=OFFLINE), 4)
BATCH_LATER = state(request("p", arrival_ns=3, task_class=OFFLINE), 5)
BATCH_DUE = state(request("d", arrival_ns=5, task_class=OFFLINE, deadline_ns=100), 6)
BATCH_URGENT = state(request("v", arrival_ns=7, task_class=OFFLINE, priority=-1), 7)
EVERYBODY = [A, B, URGENT, LAZY, BATCH, BATCH_LATER, BATCH_DUE, BATCH_URGENT]


def ordered(rule, states=EVERYBODY) -> list[str]:
    first = sorted(states, key=lambda view: (rule.key(view, 0), view.arrival_seq))
    return [view.request.request_id for view in first]


def test_first_come_first_served_looks_at_the_arrival_alone():
    assert ordered(FirstComeFirstServed()) == ["l", "o", "a", "b", "p", "d", "v", "u"]


def test_online_goes_first_then_priority_then_deadline_then_arrival():
    assert ordered(OnlineFirst()) == ["u", "a", "b", "l", "v", "d", "o", "p"]


def test_the_last_to_come_is_the_first_preempted():
    assert ordered(LastComeFirstPreempted()) == ["u", "v", "d", "p", "b", "a", "o", "l"]


def test_of_one_arrival_time_the_later_added_is_preempted_first():
    twins = [state(request(name), seq) for seq, name in enumerate("ab")]
    assert ordered(LastComeFirstPreempted(), twins) == ["b", "a"]
    assert ordered(OfflineFirst(), twins) == ["b", "a"]


def test_who_would_go_last_is_preempted_first():
    assert ordered(OfflineFirst()) == ["p", "o", "d", "v", "l", "b", "a", "u"]
    assert ordered(OfflineFirst()) == ordered(OnlineFirst())[::-1]


def test_under_first_come_first_served_nobody_yields_to_the_waiting():
    assert not any(LastComeFirstPreempted().yields_to(r, w) for r in EVERYBODY for w in EVERYBODY)


def test_only_offline_yields_and_only_to_online():
    yielding = OfflineFirst().yields_to
    assert yielding(BATCH, A)
    assert not yielding(A, BATCH)
    assert not yielding(B, URGENT)
    assert not yielding(BATCH, BATCH_URGENT)


@pytest.mark.parametrize(("share", "blocks"), [(0.0, 0), (0.01, 1), (0.5, 4), (1.0, 7)])
def test_a_watermark_is_a_share_of_all_blocks_rounded_up(share, blocks):
    assert Watermark(share).spare_blocks(7) == blocks


@pytest.mark.parametrize(
    ("limit", "remaining", "budget", "tokens"),
    [
        (0, 10, 64, 10),
        (0, 10, 6, 6),
        (4, 10, 64, 4),
        (4, 3, 64, 3),
        (4, 10, 2, 2),
        (4, 10, 0, 0),
        (0, 0, 8, 0),
    ],
)
def test_a_chunk_is_what_is_left_of_prompt_budget_and_limit(limit, remaining, budget, tokens):
    assert FillTheBudget(limit).tokens(A, remaining, budget) == tokens


def test_a_fixed_budget_is_fixed():
    assert [FixedBudget(9).token_budget(now_ns) for now_ns in (0, 10**9)] == [9, 9]


@pytest.mark.parametrize("name", NAMED)
def test_every_named_policy_knows_its_name_and_takes_its_limits_from_the_configuration(name):
    policy = named(config(policy=name, max_num_batched_tokens=32, max_prefill_chunk_tokens=5))
    assert policy.name == name
    assert policy.filling.token_budget(0) == 32
    whole = isinstance(policy.chunking, WholePrompts)
    assert policy.chunking.tokens(A, 10, 10) == (10 if whole else 5)
    assert policy.chunking.tokens(A, 10, 9) == (0 if whole else 5)


def test_an_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"did you mean 'priority'\? take one of vllm, priority"):
        named(config(policy="prioritty"))
    with pytest.raises(ConfigError, match="no policy 'x': take one of"):
        named(config(policy="x"))
