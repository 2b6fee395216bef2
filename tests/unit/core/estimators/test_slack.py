"""How long a step may take: a machine of 10 ms a step and 10 us a token makes the arithmetic plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError
from brim.core.estimators.due_times import DueTimes, Pacing
from brim.core.estimators.slack import Arrivals, Miss, OnlineStep, PromptWork, Slack, StepLimit
from brim.core.estimators.step_time import StepShape, attention_pairs

MS = 1_000_000
LONG_AGO = -299_000 * MS


def predict(shape: StepShape) -> int:
    return 10 * MS + MS // 100 * shape.new_tokens


def attending(shape: StepShape) -> int:
    """The same where a pair takes 100 ns."""
    return predict(shape) + 100 * shape.attention_pairs


def slack(ttft_ns: int | None = None, budget: int = 1000, share: float = 1.0, **decoding: Pacing) -> Slack:
    """All those who decode have drawn their first token, and only that, at 0 ns."""
    dues = DueTimes()
    for request_id, wanted in decoding.items():
        dues.pace(request_id, wanted, first_ns=0)
        dues.start(request_id, num_drawn=1, tick=0)
    return Slack(predict, dues, Arrivals(ttft_ns), budget, share)


def step(now_ns: int = 0, num_decodes: int = 0, *prompts: PromptWork, tick: int = 0, last_ns: int = 0):
    return OnlineStep(now_ns, now_ns, last_ns, tick, num_decodes, 100 * num_decodes, prompts)


def test_with_nobody_here_the_next_arrival_sets_the_limit():
    """1 s for its first token, less a prefill of 300 tokens in 13 ms, and hardly anybody who follows."""
    alone = slack(ttft_ns=1000 * MS)
    for _ in range(8):
        alone.arrivals.observe(LONG_AGO, None, 300)
    limit = alone.limit(step(5 * MS))
    assert (limit.limit_ns, limit.request_id) == (pytest.approx(987 * MS, rel=1e-3), None)


def test_before_enough_came_to_know_them_half_of_the_target_is_for_their_prompts():
    fresh = slack(ttft_ns=1000 * MS)
    for _ in range(8):
        assert fresh.limit(step(5 * MS)) == StepLimit(500 * MS, 0)
        fresh.arrivals.observe(LONG_AGO, None, 300)
    assert fresh.limit(step(5 * MS)).limit_ns == pytest.approx(987 * MS, rel=1e-3)


def test_where_nobody_is_held_back_arrivals_are_not_looked_at():
    """But a miss is told all the same."""
    alone = slack(ttft_ns=1000 * MS)
    alone.arrivals.observe(0, None, 300)
    assert alone.limit(step(5 * MS)._replace(limits_offline=False)) == StepLimit(None, 0)
    late = PromptWork("p", 1 * MS, 0, 100, 100)
    told, untold = (alone.limit(step(0, 0, late)._replace(limits_offline=held)) for held in (True, False))
    assert told.miss == untold.miss
    assert told.miss is not None


def limit_and_tokens(busy: Slack, every_ms: int) -> tuple[int, int]:
    """A hundred with 100 tokens came, one in so many ms: the limit, and the tokens that come in that time."""
    for at in range(100):
        busy.arrivals.observe(at * every_ms * MS, None, 100)
    now_ns = 100 * every_ms * MS
    found = busy.limit(step(now_ns)).limit_ns
    assert found is not None
    return found, busy.arrivals.prompt_tokens(found, now_ns)


def test_the_longer_it_may_take_the_more_arrive_meanwhile():
    """One with 100 tokens comes every 100 ms: for a first token in 1 s a step must leave time for a few."""
    found, tokens = limit_and_tokens(slack(ttft_ns=1000 * MS), every_ms=100)
    assert tokens > 1000
    assert found + predict(StepShape(tokens, attention_pairs(tokens))) <= 1000 * MS
    assert found + predict(StepShape(2 * tokens, attention_pairs(2 * tokens))) > 1000 * MS


def test_many_short_prompts_are_not_one_long_one():
    """One with 100 tokens comes every 20 ms: 10,000 of them in 2 s, but each attends to 100 at most."""
    busy = slack(ttft_ns=2000 * MS)
    found, tokens = limit_and_tokens(Slack(attending, busy.dues, busy.arrivals, 100_000), every_ms=20)
    assert tokens > 5_000
    assert found + attending(StepShape(tokens, attention_pairs(100) * tokens // 100)) <= 2000 * MS


@given(
    prompts=st.lists(st.integers(1, 2_000), max_size=40),
    ttft_ms=st.integers(1, 3_000),
    gap_ms=st.integers(1, 3_000),
    num_decodes=st.integers(1, 64),
    ahead_ms=st.integers(0, 50),
)
def test_arrivals_are_looked_at_no_closer_than_needed(
    prompts: list[int], ttft_ms: int, gap_ms: int, num_decodes: int, ahead_ms: int
) -> None:
    """The limit is the same as where each is taken by itself."""
    with_both = slack(ttft_ms * MS, a=Pacing(gap_ms * MS, None))
    for number, tokens in enumerate(prompts):
        with_both.arrivals.observe((number - 100) * 20 * MS, ttft_ms * MS, tokens)
    alone = slack(ttft_ms * MS)
    alone.arrivals = with_both.arrivals
    coming = step(0, num_decodes)._replace(start_ns=ahead_ms * MS)
    online_ns = predict(coming.shape)
    asked = [gap_ms * MS - coming.start_ns]
    if asked[0] >= online_ns:
        alone.dues = with_both.dues  # for the pace
        asked.append(alone._until_arrivals(coming, coming.decodes, ttft_ms * MS, None))
        shortest_ns = predict(StepShape(1))
        hopeless = asked[1] <= 0 and alone._is_hopeless(coming, coming.decodes, ttft_ms * MS)
        asked[1] = max(asked[1], int((2 if hopeless else 1.25) * shortest_ns))
    assert with_both.limit(coming).limit_ns == max(min(asked), online_ns)


def test_a_target_that_no_arrival_can_meet_leaves_steps_of_half_work():
    assert slack(ttft_ns=1 * MS).limit(step()) == StepLimit(2 * predict(StepShape(1)), 0)
    seen = slack()
    seen.arrivals.observe(0, predict(StepShape(1)), 200)
    assert seen.limit(step()) == StepLimit(2 * predict(StepShape(1)), 0)


def test_a_target_that_arrivals_can_just_meet_is_left_the_time_but_for_a_fifth_of_a_step():
    """A prompt of 200 tokens takes 12 ms: a step of 14 ms leaves it in time, one of 11 is hardly any work."""
    for ttft_ms, limit_ms in ((26, 14), (23, 12.5), (13, 12.5), (11.9, 20)):
        seen = slack()
        for at in range(8):
            seen.arrivals.observe(LONG_AGO + at, round(ttft_ms * MS), 200)
        found = seen.limit(step()).limit_ns
        assert found == pytest.approx(limit_ms * MS, rel=0.01)


def test_a_target_that_only_the_guard_breaks_is_no_reason_for_long_steps():
    """A prompt of 200 tokens is expected to take 12 ms, and 18 with the guard."""
    for ttft_ms, limit_ms in ((17, 12.5), (12.5, 12.5), (11.9, 20)):
        seen = slack()
        seen = Slack(lambda shape: predict(shape) * 3 // 2, seen.dues, seen.arrivals, 1000, expect=predict)
        for at in range(8):
            seen.arrivals.observe(LONG_AGO + at, round(ttft_ms * MS), 200)
        assert seen.limit(step()).limit_ns == pytest.approx(1.5 * limit_ms * MS, rel=0.01)


def test_one_in_a_hurry_among_many_long_prompts_does_not_stop_offline_work():
    """A prompt of 8,000 tokens takes 160 ms; the one that is due in 100 ms has 10."""
    seen = slack(budget=10_000)
    for at in range(100):
        seen.arrivals.observe(LONG_AGO + at * 2_990 * MS, 2_000 * MS, 8_000)
    seen.arrivals.observe(0, 100 * MS, 10)
    limit_ns = seen.limit(step()).limit_ns
    assert limit_ns is not None
    assert limit_ns > 40 * MS


def test_a_target_of_a_client_below_the_shortest_step_slows_nobody_down():
    seen = slack()
    seen.arrivals.observe(0, 1 * MS, 200)
    assert seen.limit(step()) == StepLimit(None, 0)


def test_without_any_target_there_is_no_limit():
    free = slack(r=Pacing(None, None))
    prompt = PromptWork("p", None, 0, 100, 100)
    assert free.limit(step(0, 1, prompt)) == StepLimit(None, predict(StepShape(101)))


def test_a_decode_is_due_at_the_end_of_the_step():
    limit = slack(r=Pacing(50 * MS, None)).limit(step(2 * MS, 1))
    assert limit == StepLimit(48 * MS, predict(StepShape(1)), "r")


def test_the_tightest_of_mixed_targets_counts():
    mixed = slack(
        ttft_ns=1000 * MS, chat=Pacing(100 * MS, 50 * MS), code=Pacing(30 * MS, None), any=Pacing(None, None)
    )
    assert mixed.limit(step(0, 3)).request_id == "code"
    assert mixed.limit(step(0, 3)).limit_ns == 30 * MS
    mixed.dues.end("code")
    assert mixed.limit(step(0, 2)).limit_ns == 50 * MS
    mixed.dues.end("chat")
    assert mixed.limit(step(0, 1)).request_id is None


def test_a_banked_early_token_gives_the_step_more_time():
    banked = slack(r=Pacing(100 * MS, 50 * MS))
    assert banked.limit(step(15 * MS, 1, tick=1, last_ns=15 * MS)).limit_ns == 85 * MS
    assert banked.limit(step(30 * MS, 1, tick=2, last_ns=30 * MS)).limit_ns == 100 * MS


def test_chunks_still_to_come_count_before_the_first_token():
    """2,500 tokens, 1,000 now: 20 ms and then 15 ms are still needed, so 65 of 100 ms are left."""
    prompt = PromptWork("p", 100 * MS, 0, 2500, 1000)
    assert slack().limit(step(0, 0, prompt)) == StepLimit(65 * MS, 20 * MS, "p")
    last = prompt._replace(start=1500, num_tokens=1000)
    assert slack().limit(step(0, 0, last)).limit_ns == 100 * MS


def test_chunks_to_come_are_as_small_as_the_decodes_want_them():
    """A pace of 15 ms allows 499 tokens beside the decode: 1,500 tokens are three such and 3 more."""
    prompt = PromptWork("p", 90 * MS, 0, 1750, 250)
    later_ns = 3 * 15 * MS + predict(StepShape(3 + 1))
    patient = slack(r=Pacing(None, 15 * MS))
    patient.dues.pace("r", Pacing(None, 15 * MS), first_ns=900 * MS)  # it has time in this step
    limit = patient.limit(step(0, 1, prompt))
    assert (limit.limit_ns, limit.request_id) == (90 * MS - later_ns, "p")


def test_where_decodes_leave_no_room_for_a_chunk_the_steps_are_full():
    """Steps of 5 ms can't be had: 1,500 tokens take two steps, of 999 tokens and the rest."""
    prompt = PromptWork("p", 90 * MS, 0, 1750, 250)
    slow = slack(r=Pacing(None, 5 * MS))
    slow.dues.pace("r", Pacing(None, 5 * MS), first_ns=900 * MS)
    assert slow.limit(step(0, 1, prompt)).limit_ns == 90 * MS - 20 * MS - predict(StepShape(501 + 1))


def test_the_work_of_those_ahead_counts():
    first = PromptWork("first", 500 * MS, 0, 1500, 1000)
    second = PromptWork("second", 100 * MS, 0, 700)
    limit = slack().limit(step(0, 0, first, second))
    # 500 + 700 tokens after this step: 20 ms and 12 ms
    assert limit == StepLimit(68 * MS, 20 * MS, "second")
    # 700 tokens, in a step that 300 of those behind fill up
    assert slack().limit(step(0, 0, second, first._replace(tokens_now=0))).limit_ns == 80 * MS


def test_short_prompts_share_their_steps():
    """Ten of 50 tokens are one step of 15 ms, not ten."""
    prompts = [PromptWork(f"p{i}", 100 * MS, 0, 50) for i in range(10)]
    assert slack().limit(step(0, 0, *prompts)).limit_ns == 85 * MS


def test_one_who_waits_without_a_target_still_delays_the_others():
    patient = PromptWork("patient", None, 0, 900)
    hurried = PromptWork("hurried", 100 * MS, 0, 100)
    assert slack().limit(step(0, 0, patient, hurried)).limit_ns == 80 * MS


def test_a_step_in_flight_shortens_what_is_left():
    """Decided on at 0, started when the step in flight ends at 30 ms."""
    busy = slack(ttft_ns=200 * MS, r=Pacing(None, 100 * MS))
    prompt = PromptWork("p", 80 * MS, 0, 100, 100)
    in_flight = OnlineStep(0, 30 * MS, 30 * MS, 0, 1, 100, (prompt,))
    assert busy.limit(in_flight) == StepLimit(50 * MS, predict(StepShape(101)), "p")
    assert busy.limit(in_flight._replace(prompts=())).limit_ns == 70 * MS
    busy.dues.end("r")
    # an arrival of now waits for both steps; of its prompt nothing is known, so it takes half of the target
    limit = busy.limit(in_flight._replace(prompts=()))
    assert (limit.limit_ns, limit.request_id) == (200 * MS // 2 - 30 * MS, None)


def test_online_work_alone_beyond_the_limit_runs_all_the_same():
    """Who is late, and by how much, is said; for offline requests no time is left."""
    limit = slack(r=Pacing(20 * MS, None)).limit(step(5 * MS, 1, PromptWork("p", None, 0, 999, 999)))
    assert limit == StepLimit(20 * MS, 20 * MS, "r", Miss("r", 5 * MS))


def test_the_search_ends_at_the_first_miss():
    """Who decodes will be late already; the prompt, later still, is not looked at."""
    late = PromptWork("p", 0, 0, 10)
    assert slack(r=Pacing(5 * MS, None)).limit(step(0, 1, late)).miss == Miss(
        "r", predict(StepShape(1)) - 5 * MS
    )


def test_an_arrival_that_may_come_is_never_missed():
    limit = slack(ttft_ns=1 * MS, r=Pacing(None, None)).limit(step(0, 1100))
    online_ns = predict(StepShape(1100))
    assert limit == StepLimit(online_ns * 5 // 4, online_ns, None, None)  # it is hopeless: offline goes on


def test_prompts_go_on_from_where_they_are():
    """A token attends to all before it: deep inside a prompt chunks are smaller, and more of them to come."""
    shallow, deep = (PromptWork("p", 900 * MS, start, 900) for start in (0, 1_000))
    rule = slack(r=Pacing(None, 60 * MS))
    rule.dues.pace("r", Pacing(None, 60 * MS), first_ns=900 * MS)  # it has time in this step
    rule = Slack(attending, rule.dues, rule.arrivals, 1000)
    left = [rule.limit(step(0, 1, prompt)).limit_ns for prompt in (shallow, deep)]
    assert left[0] is not None
    assert left[1] is not None
    # 900 tokens take 60 ms at once from 0 on; from 1,000 on 390 fit beside the decode: three steps
    assert 900 * MS - left[0] == attending(StepShape(901, attention_pairs(900), 1, 100))
    assert 900 * MS - left[1] > 2 * 60 * MS


@pytest.mark.parametrize(("share", "limit_ms"), [(0.0, 20), (0.25, 40), (1.0, 100)])
def test_a_share_of_the_slack_is_spent(share, limit_ms):
    prompt = PromptWork("p", 100 * MS, 0, 1000, 1000)
    assert slack(share=share).limit(step(0, 0, prompt)).limit_ns == limit_ms * MS


def test_more_than_all_of_the_slack_is_refused():
    with pytest.raises(ConfigError, match="from 0 to 1"):
        slack(share=1.1)


prompts = st.builds(
    PromptWork,
    request_id=st.just("p"),
    due_ns=st.none() | st.integers(20 * MS, 900 * MS),
    start=st.integers(0, 500),
    num_tokens=st.integers(101, 3000),
    tokens_now=st.sampled_from([0, 0, 100]),
)


@given(st.lists(prompts, max_size=5), st.integers(0, 20), st.integers(0, 60 * MS))
def test_a_step_of_the_limit_and_full_online_steps_after_it_are_just_in_time(waiting, num_decodes, start_ns):
    """Played step by step in the order given: nobody is late, and who set the limit has no time to spare."""
    budget = 600
    limit = slack(budget=budget).limit(OnlineStep(0, start_ns, start_ns, 0, num_decodes, 0, tuple(waiting)))
    if limit.limit_ns is None or limit.miss is not None:
        return
    now_ns = start_ns + limit.limit_ns
    left = [prompt.num_tokens - prompt.tokens_now for prompt in waiting]
    spare_ns = []
    while any(left):
        room = budget - num_decodes
        chunks = [0] * len(left)
        for i, tokens in enumerate(left):
            chunks[i] = min(tokens, room - sum(chunks))
        now_ns += predict(StepShape(num_decodes + sum(chunks)))
        left = [tokens - chunk for tokens, chunk in zip(left, chunks, strict=True)]
        ended = [p for p, tokens, chunk in zip(waiting, left, chunks, strict=True) if chunk and not tokens]
        spare_ns += [prompt.due_ns - now_ns for prompt in ended if prompt.due_ns is not None]
    assert min(spare_ns) == 0
