"""Each rule alone: a key or a number."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from brim.core.errors import ConfigError
from brim.core.estimators.pace import Pace
from brim.core.policies.admitting import InverseGuard, Watermark
from brim.core.policies.chunking import FillTheBudget, WholePrompts
from brim.core.policies.expecting import Predicted
from brim.core.policies.grouping import Alone, SameEnd
from brim.core.policies.lending import Lending
from brim.core.policies.named import NAMED, named
from brim.core.policies.ordering import (
    ByRanges,
    FirstComeFirstServed,
    MultiLevelFeedback,
    OnlineFirst,
    ShortestRemaining,
)
from brim.core.policies.picking import InOrder, LongestFit, NearestFit
from brim.core.policies.preempting import (
    LastComeFirstPreempted,
    LongestRemainingFirst,
    LowestLevelFirst,
    OfflineFirst,
    OfflineLeastLoss,
)
from brim.core.policies.promising import Exact, Maximum, OnDemand
from brim.core.request import SLO, RequestState
from brim.core.waiting import WaitingQueue
from tests.helpers import MS, OFFLINE, Foretold, compute, config, request, state

SECOND = 1000 * MS

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


def test_of_the_offline_the_one_that_loses_least_gives_way_and_a_hit_is_no_loss():
    online = state(request("o", 40))
    long, short, hit = (state(request(name, 40, task_class=OFFLINE), seq) for seq, name in enumerate("lsh"))
    for one, cached, computed in ((online, 0, 1), (long, 0, 30), (short, 0, 8), (hit, 36, 4)):
        one.admit(cached)
        compute(one, computed)
    assert ordered(OfflineLeastLoss(), [online, long, short, hit]) == ["h", "s", "l", "o"]


def test_of_an_equal_loss_the_newest_gives_way():
    twins = [state(request(name, task_class=OFFLINE), seq) for seq, name in enumerate("ab")]
    assert ordered(OfflineLeastLoss(), twins) == ["b", "a"]


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


@pytest.mark.parametrize("name", NAMED)
def test_every_named_policy_knows_its_name_and_takes_its_limits_from_the_configuration(name):
    policy = named(config(policy=name, max_num_batched_tokens=32, max_prefill_chunk_tokens=5))
    assert policy.name == name
    assert policy.filling.token_budget == 32
    whole = isinstance(policy.chunking, WholePrompts)
    assert policy.chunking.tokens(A, 10, 10) == (10 if whole else 5)
    assert policy.chunking.tokens(A, 10, 9) == (0 if whole else 5)


def test_an_unknown_policy_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"did you mean 'priority'\? take one of vllm, priority"):
        named(config(policy="prioritty"))
    with pytest.raises(ConfigError, match="no policy 'x': take one of"):
        named(config(policy="x"))


def waiting(name: str, seq: int = 0, *, prompt: int = 4, expects: int | None = None, **facts) -> RequestState:
    """A request that is expected to have `expects` tokens of output."""
    one = state(request(name, prompt, **facts), seq)
    if expects is not None:
        one.expect(expects)
    return one


def half_done(name: str, seq: int = 0, *, held: int, prompt: int = 600, **facts) -> RequestState:
    one = waiting(name, seq, prompt=prompt, **facts)
    one.admit(0)
    one.schedule(held)
    return one


# ---- the least and the most work


def test_the_shortest_remaining_is_what_is_expected_less_what_is_computed():
    short, long = waiting("s", 1, expects=3, max_tokens=9), waiting("l", 0, expects=5, max_tokens=9)
    assert ordered(ShortestRemaining(), [long, short]) == ["s", "l"]
    long.admit(0)
    compute(long, 4)
    assert ordered(ShortestRemaining(), [long, short]) == ["l", "s"]
    assert ordered(LongestRemainingFirst(), [long, short]) == ["s", "l"]
    assert ShortestRemaining().changes_at_ns(short, 0) is None


@pytest.mark.parametrize(
    ("tokens", "level"), [(1, 0), (511, 0), (512, 1), (1023, 1), (1024, 2), (2047, 2), (2048, 3)]
)
def test_a_level_is_twice_as_long_as_the_one_before(tokens, level):
    assert MultiLevelFeedback().level(waiting("a", prompt=tokens)) == level


def test_levels_go_before_arrivals_and_the_lowest_gives_way():
    levels = MultiLevelFeedback(4)
    old, new, long = (
        waiting("o", arrival_ns=1, prompt=3),
        waiting("n", 1, arrival_ns=2, prompt=3),
        waiting("l"),
    )
    assert ordered(levels, [long, new, old]) == ["o", "n", "l"]
    assert ordered(LowestLevelFirst(levels), [long, new, old]) == ["l", "n", "o"]
    assert LowestLevelFirst(levels).yields_to(long, new)
    assert not LowestLevelFirst(levels).yields_to(old, new)
    assert not LowestLevelFirst(levels).yields_to(new, long)


# ---- time left, KV held, length


def due(name: str, seconds: float, seq: int = 0, **facts) -> RequestState:
    return waiting(name, seq, slo=SLO(e2e_ns=int(seconds * SECOND)), **facts)


def test_the_least_time_left_goes_first_in_ranges():
    soon, next_, late = due("s", 0.4, 2, prompt=9), due("n", 1.5, 1), due("l", 3.0, 0)
    assert ordered(ByRanges(), [late, next_, soon]) == ["s", "n", "l"]
    longer = due("m", 1.9, 3, prompt=300)
    assert ordered(ByRanges(), [next_, longer]) == ["m", "n"]  # of one range: the longest


def test_what_can_not_be_in_time_any_more_goes_last():
    over, lazy = due("o", -1), due("l", 60, 1)
    assert ordered(ByRanges(), [over, lazy]) == ["l", "o"]


def test_offline_goes_behind_online_whatever_else():
    batch = half_done("o", held=500, task_class=OFFLINE, slo=SLO(e2e_ns=SECOND // 10))
    assert ordered(ByRanges(), [batch, due("l", 60, 1)]) == ["l", "o"]


def test_a_half_done_prompt_goes_before_one_that_has_not_begun():
    begun = half_done("b", 1, held=1)
    assert ordered(ByRanges(), [due("s", 0.4), begun]) == ["b", "s"]


def test_who_holds_most_goes_first_in_ranges_of_128_tokens():
    much, more, little = (
        half_done(n, at, held=k) for at, (n, k) in enumerate([("a", 256), ("b", 383), ("c", 255)])
    )
    assert ordered(ByRanges(), [little, more, much]) == ["a", "b", "c"]


def test_the_longest_goes_first_the_prompt_for_one_that_waits_and_the_answer_for_one_that_runs():
    prompts = [
        waiting(name, at, prompt=n)
        for at, (name, n) in enumerate([("a", 127), ("b", 128), ("c", 640), ("d", 512)])
    ]
    assert ordered(ByRanges(), prompts) == ["c", "d", "b", "a"]
    answers = [
        half_done(name, at, held=600, expects=n, max_tokens=900)
        for at, (name, n) in enumerate([("a", 100), ("b", 400)])
    ]
    assert ordered(ByRanges(), answers) == ["b", "a"]


def test_of_the_late_the_shortest_goes_first_and_each_second_counts_as_a_token():
    long, short = due("l", 1, expects=60, max_tokens=99), due("s", 30, 1, expects=40, max_tokens=99)
    now_ns = 90 * SECOND
    keys = [ByRanges(tokens_per_second=rate).key(one, now_ns) for rate in (0.5, 1.0) for one in (long, short)]
    assert [keys[1] < keys[0], keys[3] < keys[2]] == [True, False]


def test_without_a_target_a_request_is_due_after_the_patience_and_never_too_late():
    rule, patient, target = ByRanges(patience_seconds=30), waiting("p"), due("t", 29, 1)
    keys = [(rule.key(target, t * MS), rule.key(patient, t * MS)) for t in (28_600, 29_001)]
    assert [goes < waits for goes, waits in keys] == [True, False]
    assert rule.is_urgent(rule.key(patient, 40 * SECOND))
    assert not rule.is_urgent(rule.key(target, 40 * SECOND))


def test_the_urgent_are_those_of_the_first_range():
    rule = ByRanges()
    keys = [rule.key(due("a", seconds), 0) for seconds in (-0.1, 0.4, 0.6, 3.0)]
    assert [rule.is_urgent(key) for key in keys] == [False, True, False, False]


def test_the_pace_is_taken_from_the_time_left():
    pace = Pace()
    pace.observe(100 * MS)
    rule = ByRanges(pace)
    long, short = due("l", 3, 1, expects=20, max_tokens=20), due("s", 3, 0, expects=5, max_tokens=20)
    assert ordered(rule, [short, long]) == ["l", "s"]


SLOS = st.builds(
    SLO,
    ttft_ns=st.none() | st.integers(0, 9 * SECOND),
    tpot_ns=st.none() | st.integers(1, SECOND),
    itl_ns=st.none() | st.integers(1, SECOND),
    e2e_ns=st.none() | st.integers(0, 9 * SECOND),
)


@given(
    SLOS,
    st.none() | st.integers(0, 9 * SECOND),
    st.integers(0, 9 * SECOND),
    st.integers(0, 9),
    st.integers(0, 99 * MS),
)
def test_a_key_stays_until_the_moment_that_is_told(slo, deadline_ns, now_ns, held, step_ns):
    pace = Pace()
    pace.observe(step_ns)
    rule = ByRanges(pace, patience_seconds=4)
    one = half_done("a", held=held, prompt=9, max_tokens=5, slo=slo, deadline_ns=deadline_ns)
    changes_at_ns, key = rule.changes_at_ns(one, now_ns), rule.key(one, now_ns)
    if changes_at_ns is None:
        assert rule.key(one, now_ns + 99 * SECOND) == key
        return
    assert changes_at_ns > now_ns
    assert rule.key(one, (now_ns + changes_at_ns) // 2) == rule.key(one, changes_at_ns - 1) == key
    endless = slo.e2e_ns is None and deadline_ns is None and slo.ttft_ns is None
    assert rule.key(one, changes_at_ns) != key or (endless and changes_at_ns > 4 * SECOND)


@given(st.integers(1, 2000), st.integers(0, 2000))
def test_whoever_is_at_or_behind_the_key_of_a_length_is_not_longer(length, limit):
    rule, stuck = ByRanges(), waiting("s", prompt=2000)
    first = rule.key_of_length(rule.key(stuck, 0), limit)
    assert length <= limit or rule.key(waiting("a", prompt=length), 0) < first
    assert rule.same_ranges(first, rule.key(stuck, 0))
    assert not rule.same_ranges(first, rule.key(half_done("h", held=9), 0))


# ---- who is offered a place


@dataclass
class Room:
    """What is left; those in `refuses` do not fit."""

    tokens: int = 99
    blocks: int = 20
    block_size: int = 16
    refused: bool = False


def offered(rule, requests: list[RequestState], refuses: str, room: Room | None = None, ordering=None) -> str:
    """Names in the order in which they are offered a place."""
    queue, room = WaitingQueue(ordering or ByRanges()), room or Room()
    for one in requests:
        queue.push(one, 0)
    names = ""
    for view in rule.candidates(queue, room):
        names += view.request.request_id
        room.refused = view.request.request_id in refuses
    return names


def prompts(**tokens: int) -> list[RequestState]:
    return [waiting(name, seq, prompt=n) for seq, (name, n) in enumerate(tokens.items())]


def test_in_order_nobody_is_asked_behind_one_that_does_not_fit():
    assert offered(InOrder(), prompts(a=9, b=9, c=9), "b", ordering=FirstComeFirstServed()) == "ab"


def test_behind_one_that_does_not_fit_the_longest_that_surely_does_is_next():
    """320 tokens are left: one of 256 to 383 may be too long, one of 128 to 255 is not."""
    fits = LongestFit(ByRanges())
    assert offered(fits, prompts(a=600, b=300, c=200, d=100), "a") == "acd"
    assert offered(fits, prompts(a=600, b=300, c=200, d=100), "") == "abcd"
    assert offered(fits, prompts(a=600, b=300, c=200, d=100), "ac") == "ac"
    assert offered(fits, prompts(a=600, b=300, c=200, d=100), "a", Room(blocks=7)) == "a"


def test_the_longest_fit_passes_inside_equal_ranges_only():
    later = due("l", 60, 9, prompt=9)
    soon = [due("s", 1.5, 0, prompt=600), due("t", 1.5, 1, prompt=9)]
    assert offered(LongestFit(ByRanges()), [*soon, later], "s") == "st"


def test_nobody_passes_an_urgent_one():
    urgent = [due("u", 0.4, 0, prompt=600), due("v", 0.4, 1, prompt=9)]
    assert offered(LongestFit(ByRanges()), urgent, "u") == "u"


def test_a_guest_passes_all_but_the_urgent():
    lending = Lending(ByRanges())
    keys = [ByRanges().key(due("a", seconds), 0) for seconds in (0.4, 1.5)]
    assert [lending.may_pass(key) for key in keys] == [False, True]


def test_the_nearest_fit_is_the_one_that_fills_both_resources():
    room = Room(tokens=100, blocks=10, block_size=16)
    narrow = waiting("n", 0, prompt=100, expects=2)  # all tokens, 7 blocks
    small = waiting("s", 1, prompt=10, expects=2)
    exact = waiting("e", 2, prompt=100, expects=60, max_tokens=60)  # all tokens, all blocks
    huge = waiting("h", 3, prompt=100, expects=61, max_tokens=61)  # a block too many
    assert offered(NearestFit(), [narrow, small, exact, huge], "", room) == "ensh"
    assert offered(NearestFit(), [narrow, small, exact, huge], "e", room) == "e"


# ---- entering


def ungranted(*sizes: tuple[int, int]) -> list[RequestState]:
    """Requests by prompt and expected output."""
    return [waiting("a", at, prompt=prompt, expects=n, max_tokens=n) for at, (prompt, n) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "allowed"),
    [
        ([(40, 30)], True),
        ([(40, 30), (40, 30)], False),  # each would wait for the other's blocks
        ([(40, 48)], True),
        ([(40, 49)], False),  # 12 of 100 are the prompts' own
        ([(6, 70), (6, 76)], True),
        ([(6, 70), (6, 77)], False),  # the largest must fit beside all prompts
        ([(6, 1), (7, 1)], False),  # more than the floor holds, and more than one
        ([], True),
    ],
)
def test_every_prompt_inside_must_find_its_output_beside_all_prompts(sizes, allowed):
    assert InverseGuard(0.0, floor_tokens=50).allows(ungranted(*sizes), 100, 1, 0) is allowed


def test_the_reserve_is_not_for_those_who_enter():
    assert InverseGuard(0.03, 50).spare_blocks(100) == 3
    assert InverseGuard(0.03, 50).allows(ungranted((40, 45)), 100, 1, 0)
    assert not InverseGuard(0.03, 50).allows(ungranted((40, 46)), 100, 1, 0)


@pytest.mark.parametrize(
    ("floor_tokens", "num_blocks", "block_size", "blocks"),
    [(0, 100, 16, 1), (33, 100, 16, 3), (32, 100, 16, 2), (999, 100, 16, 12), (999, 7, 4, 0)],
)
def test_the_floor_is_at_least_a_block_and_at_most_an_eighth(floor_tokens, num_blocks, block_size, blocks):
    assert InverseGuard(0.0, floor_tokens).prompt_blocks(num_blocks, block_size) == blocks


def test_where_all_could_be_granted_at_once_the_floor_does_not_bound_the_prompts():
    rule = InverseGuard(0.1, floor_tokens=10)  # 10 blocks of reserve, and a floor of 10
    crowd = ungranted((30, 40), (30, 40))
    to_come = sum(view.expected_tokens - len(view.block_ids) for view in crowd)  # blocks of one token
    assert rule.allows(crowd, 100, 1, to_come + 20)
    assert not rule.allows(crowd, 100, 1, to_come + 19)


def test_a_watermark_lets_all_enter_and_keeps_nothing_for_prompts():
    rule = Watermark(0.01)
    assert (rule.allows(ungranted((99, 99), (99, 99)), 100, 1, 0), rule.prompt_blocks(100, 1)) == (True, 0)


@pytest.mark.parametrize(
    ("remaining", "budget", "tokens"),
    [(10, 64, 10), (10, 10, 10), (10, 9, 0), (40, 31, 0), (40, 32, 32), (99, 64, 64), (1, 0, 0)],
)
def test_a_prompt_runs_whole_or_waits_and_is_cut_only_where_half_a_step_is_left(remaining, budget, tokens):
    assert WholePrompts(64).tokens(A, remaining, budget) == tokens


# ---- lengths and promises


@pytest.mark.parametrize(
    ("predicted", "padding", "bucket", "generated", "tokens"),
    [
        (10, 0.0, 1, 0, 10),
        (10, 0.0, 4, 0, 12),
        (12, 0.0, 4, 0, 12),
        (10, 0.15, 1, 0, 12),
        (10, 0.25, 4, 0, 16),
        (10, 0.5, 1, 6, 12),  # only the 4 to come are padded
        (10, 0.0, 4, 10, 12),  # one more than it has, at least
        (95, 0.5, 4, 0, 99),  # no more than it may
    ],
)
def test_an_expected_length_is_padded_and_rounded_up_to_buckets(
    predicted, padding, bucket, generated, tokens
):
    one = waiting("a", max_tokens=99)
    one.admit(0)
    for _ in range(generated):
        one.append(7)
    assert Predicted(Foretold({"a": predicted}), padding, bucket).output_tokens(one) == tokens


def test_what_is_promised():
    one = waiting("a", prompt=4, expects=5, max_tokens=9)
    rules = [OnDemand(), Exact(), Maximum()]
    assert [(rule.tokens(one), rule.binding) for rule in rules] == [(4, False), (9, True), (13, True)]
    one.expect(1)
    one.admit(0)
    one.append(7)
    assert Exact().tokens(one) == 6  # no less than the next token


def test_who_is_expected_to_end_at_the_same_step_is_one_group():
    a, b = (
        waiting("a", 0, prompt=4, expects=5, max_tokens=9),
        waiting("b", 1, prompt=9, expects=6, max_tokens=9),
    )
    b.admit(0)
    b.append(7)
    assert [SameEnd().key(view) for view in (a, b)] == [5, 5]
    assert [Alone().key(view) for view in (a, b)] == [0, 1]


def test_what_tells_the_named_policies_apart():
    rows = {name: named(config(policy=name)) for name in NAMED}
    econoserve = ["econoserve-d", "econoserve-sd", "econoserve-sdo", "econoserve"]
    assert [name for name, row in rows.items() if row.filling.prompts_alone] == ["vllm-2023"]
    assert [name for name, row in rows.items() if row.decoupled] == econoserve
    assert [name for name, row in rows.items() if isinstance(row.grouping, SameEnd)] == econoserve[1:]
    assert [name for name, row in rows.items() if isinstance(row.ordering, ByRanges)] == econoserve[2:]
    assert [name for name, row in rows.items() if row.lending] == econoserve[3:]
    assert [name for name, row in rows.items() if isinstance(row.promising, Maximum)] == ["orca", "fastserve"]
    assert [name for name, row in rows.items() if isinstance(row.promising, Exact)] == [
        "s3",
        "multires",
        *econoserve[1:],
    ]
