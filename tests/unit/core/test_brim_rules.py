"""The rules of the row `brim` that no other row has."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from brim.core.policies.ordering import ShortestUnlessUrgent
from brim.core.policies.preempting import LeastLossThenLongest
from brim.core.request import SLO, RequestState
from tests.helpers import MS, OFFLINE, Host, compute, config, request, state

SECOND = 1000 * MS
RULE = ShortestUnlessUrgent(urgent_seconds=0.5, tokens_per_second=2.0)


def waits(name: str, seq: int, *, outputs: int = 8, **facts) -> RequestState:
    return state(request(name, 8, outputs, **facts), seq)


def first(now_ns: int, *views: RequestState) -> str:
    return min(views, key=lambda view: RULE.key(view, now_ns)).request.request_id


def test_the_shortest_goes_first_and_waiting_counts_two_tokens_a_second():
    long, short = waits("l", 0, outputs=30), waits("s", 1, outputs=10, arrival_ns=9 * SECOND)
    assert first(0, long, short) == "s"
    later = waits("n", 2, outputs=10, arrival_ns=11 * SECOND)
    assert first(12 * SECOND, long, later) == "l"


def test_who_can_just_get_its_first_token_in_time_goes_before_the_shortest():
    short, due = waits("s", 0, outputs=2), waits("d", 1, outputs=30, slo=SLO(ttft_ns=SECOND))
    firsts = [first(now_ns * MS, short, due) for now_ns in (499, 500, 1000, 1001)]
    assert firsts == ["s", "d", "d", "s"]  # too late is not urgent any more


def test_a_long_prompt_is_urgent_as_much_earlier_as_it_takes():
    rule = replace(RULE, prompt_ns=lambda tokens, start: (tokens + start) * 100 * MS)
    short, due = waits("s", 0, outputs=2), waits("d", 1, outputs=30, slo=SLO(ttft_ns=4 * SECOND))
    assert rule.changes_at_ns(due, 0) == 2700 * MS  # 8 tokens take 0.8 s
    firsts = [min(short, due, key=lambda view: rule.key(view, at * MS)) for at in (2699, 2700)]
    assert firsts == [short, due]
    due.admit(0)
    due.schedule(5)
    assert rule.changes_at_ns(due, 0) == 2700 * MS  # 3 tokens behind 5


def test_priority_goes_before_urgency_and_online_before_offline():
    due, offline = waits("d", 0, slo=SLO(ttft_ns=1)), waits("o", 1, task_class=OFFLINE)
    tier = waits("t", 2, outputs=99, priority=-1)
    assert sorted([due, offline, tier], key=lambda v: RULE.key(v, 0)) == [tier, due, offline]


@given(
    st.none() | st.integers(0, 3 * SECOND),
    st.integers(0, 4 * SECOND),
    st.integers(0, SECOND),
    st.booleans(),
)
def test_a_key_stays_until_the_moment_that_is_told(ttft_ns, now_ns, arrival_ns, offline):
    facts = {"task_class": OFFLINE} if offline else {}
    one = waits("a", 0, arrival_ns=arrival_ns, slo=SLO(ttft_ns=ttft_ns), **facts)
    key, changes_at_ns = RULE.key(one, now_ns), RULE.changes_at_ns(one, now_ns)
    if changes_at_ns is None:
        assert RULE.key(one, now_ns + 9 * SECOND) == key
        return
    assert RULE.key(one, changes_at_ns - 1) == key != RULE.key(one, changes_at_ns)


def test_offline_gives_way_by_least_loss_and_online_the_longest_first():
    rule = LeastLossThenLongest()
    short, long = waits("s", 0, outputs=5), waits("l", 1, outputs=50)
    little, much = waits("o", 2, task_class=OFFLINE), waits("p", 3, task_class=OFFLINE)
    for view, computed in ((little, 2), (much, 8)):
        view.admit(0)
        compute(view, computed)
    everybody = sorted([short, long, little, much], key=lambda view: rule.key(view, 0))
    assert everybody == [little, much, long, short]


def test_an_answer_longer_than_expected_counts_as_long_not_as_done():
    """Expected 5 tokens and has 30, so as many may come again; the other has 10 of 20."""
    rule = LeastLossThenLongest()
    runaway, usual = waits("r", 0, outputs=5), waits("u", 1, outputs=20)
    for view, outputs in ((runaway, 30), (usual, 10)):
        view.admit(0)
        compute(view, view.num_prompt_tokens)
        for _ in range(outputs):
            view.append(1)
            compute(view, 1)
    assert rule.key(runaway, 0) < rule.key(usual, 0)


def test_with_nothing_learnt_offline_steps_start_small_and_double():
    host = Host(config(policy="brim", num_blocks=100, ttft_ms=1000))
    host.add(*(request(name, 60, 8, task_class=OFFLINE) for name in "abcd"))
    assert [host.step().num_tokens for _ in range(5)] == [4, 8, 16, 32, 64]
    host.run()


def test_with_nothing_learnt_few_who_decode_keep_no_offline_block_from_its_start():
    host = Host(config(policy="brim", block_size=16, num_blocks=100, ttft_ms=1000))
    host.add(request("chat", 6, 200, slo=SLO(ttft_ns=SECOND, itl_ns=SECOND)))
    host.add(request("batch", 500, 8, task_class=OFFLINE))
    for _ in range(12):
        host.step()
    assert host.state("batch").num_computed_tokens > 100
