"""What a scheduler's calls tell of online requests: due times, and work still to be done."""

from brim.core.batch import Batch
from brim.core.estimators.online_watch import OnlineWatch
from brim.core.estimators.slack import PromptWork
from brim.core.request import SLO, RequestState, RequestView
from tests.helpers import MS, OFFLINE, compute, request, state

PACED = SLO(ttft_ns=100 * MS, tpot_ns=10 * MS)


def decoding(
    watch: OnlineWatch, batch: Batch, one: RequestState, first_ns: int, *, committed: bool = True
) -> RequestState:
    """Its prompt was run in the step before the coming one."""
    one.admit(0)
    batch.add(one)
    one.schedule(one.num_prompt_tokens)
    batch.tick += 1
    batch.start_decoding(one)
    if committed:
        commit(watch, batch, one, first_ns)
    return one


def commit(watch: OnlineWatch, batch: Batch, one: RequestState, first_ns: int) -> None:
    watch.committed(first_ns)
    compute(one, one.num_prompt_tokens)
    one.append(1)
    watch.first_token(one, first_ns, batch.tick)


def expected(view: RequestView) -> int:
    return view.expected_tokens - view.num_prompt_tokens


def unasked(num_tokens: int) -> int:
    raise AssertionError("what a prompt token takes weighs only where prompt and answer share a deadline")


def both() -> tuple[OnlineWatch, Batch]:
    watch = OnlineWatch()
    return watch, Batch(4, watch)


def test_the_second_token_is_due_a_tpot_after_the_first():
    watch, batch = both()
    decoding(watch, batch, state(request("a", slo=PACED, max_tokens=9)), 50 * MS)
    assert watch.dues.least(batch.tick, watch.last_ns) == (60 * MS, "a")
    assert watch.dues.least(batch.tick + 3, 55 * MS) == (75 * MS, "a")  # twice the target after the last


def test_while_its_first_token_is_in_flight_the_gap_counts():
    watch, batch = both()
    watch.committed(20 * MS)
    one = decoding(watch, batch, state(request("a", slo=PACED, max_tokens=9)), 0, committed=False)
    assert watch.dues.least(batch.tick, 30 * MS) == (50 * MS, "a")
    batch.tick += 1  # the step that draws its second is scheduled
    commit(watch, batch, one, 32 * MS)
    assert watch.dues.least(batch.tick, 40 * MS) == (52 * MS, "a")  # the third: 2 x 10 ms after the first


def test_offline_requests_have_no_due_time():
    watch, batch = both()
    decoding(watch, batch, state(request("a", slo=PACED, task_class=OFFLINE)), 50 * MS)
    watch.admitted(state(request("b", task_class=OFFLINE, slo=PACED)), 0)
    assert len(watch.dues) == 0
    assert watch.arrivals.ttfts_ns() == []


def test_who_sits_out_is_due_by_its_own_last_token():
    watch, batch = both()
    one = decoding(watch, batch, state(request("a", slo=PACED, max_tokens=9)), 50 * MS)
    batch.pause(one)
    assert watch.dues.least(batch.tick, 0) is None
    watch.committed(90 * MS)
    assert watch.work(one, 0, unasked).running(1) == PromptWork("a", 60 * MS, 4, 1, 1)
    batch.start_decoding(one)
    assert watch.dues.least(batch.tick, 90 * MS) == (60 * MS, "a")


def test_a_first_token_is_due_by_the_ttft_and_the_hit_is_no_work():
    watch = OnlineWatch()
    waiting = state(request("a", 20, arrival_ns=7, slo=PACED))
    assert watch.work(waiting, 12, unasked) == PromptWork("a", 100 * MS + 7, 12, 8, 0)
    assert watch.work(state(request("b", 20)), 0, unasked).running(5) == PromptWork("b", None, 0, 20, 5)


def test_a_deadline_is_shared_by_prompt_and_answer():
    """60 prompt tokens of 1 ms and 8 of output, a step each: the prompt has 60 % of the time."""
    watch = OnlineWatch(None, lambda: 5 * MS)
    one = state(request("a", 60, max_tokens=8, slo=SLO(e2e_ns=1000 * MS)))
    for cached, due_ms in ((0, 600), (20, 500)):
        assert watch.work(one, cached, lambda tokens: tokens * MS).due_ns == due_ms * MS
    one.admit(0)
    for start in (1, 59):  # its due time stays where it was, however little of its prompt is left
        one.schedule(start - one.num_scheduled_tokens)
        assert watch.work(one, 0, lambda tokens: tokens * MS).due_ns == 600 * MS


def paces_ms(expected_outputs: int, *, e2e_ms: int, limit: int = 1000, shortest_ms: int = 1) -> list[int]:
    """Between the tokens of an answer whose steps take all the time that they may, until that is over."""
    watch = OnlineWatch(None, lambda: shortest_ms * MS)
    batch, now_ns = Batch(4, watch), 0
    one = state(request("a", slo=SLO(e2e_ns=e2e_ms * MS), max_tokens=limit))
    one.expect(expected_outputs)
    decoding(watch, batch, one, 0)
    found = []
    while (due := watch.dues.least(batch.tick, now_ns)) is not None and one.num_output_tokens < limit:
        found.append((due.due_ns - now_ns) // MS)
        now_ns = due.due_ns
        batch.tick += 1
        watch.committed(now_ns)
        one.append(1)
        watch.spread(now_ns, lambda view: max(expected_outputs, 2 * view.num_output_tokens))
    return found


def test_an_answer_that_gets_longer_than_expected_has_time_left():
    """Of 1,000 ms the 50 tokens that were expected take about half, and the hundredth is still in time."""
    found = paces_ms(50, e2e_ms=1000)
    assert found[0] == 9  # twice 50 tokens, rounded down
    assert sum(found[:50]) <= 600
    assert len(found) > 100
    assert sum(found[:100]) < 900


def test_no_more_is_kept_back_than_an_answer_may_still_get():
    assert paces_ms(50, e2e_ms=1000, limit=50)[0] == 18  # 1,000 ms for 49 tokens: 20, rounded down


def test_nothing_is_kept_back_that_makes_steps_too_short():
    """50 tokens in 1,000 ms, and no step takes less than 9: 10 would leave others no time, 18 is enough."""
    assert paces_ms(51, e2e_ms=1000, shortest_ms=9)[0] == 16  # 18, rounded down


def test_an_answer_that_is_late_as_a_whole_asks_for_its_other_targets_alone():
    """The first token came at 50 ms, and the answer was due at 100: then it is too late to hurry."""
    watch, batch = both()
    for name, tpot_ns in (("a", None), ("b", 80 * MS)):
        slo = SLO(e2e_ns=100 * MS, tpot_ns=tpot_ns)
        decoding(watch, batch, state(request(name, slo=slo, max_tokens=50)), 50 * MS)
    due = watch.dues.least(batch.tick, 50 * MS)
    assert due is not None
    assert due.due_ns < 60 * MS
    watch.spread(99 * MS, expected)
    due = watch.dues.least(batch.tick, 99 * MS)
    assert due is not None
    assert due.due_ns < 100 * MS
    watch.spread(100 * MS, expected)
    assert watch.dues.least(batch.tick, 100 * MS) == (130 * MS, "b")
    for name in "ab":
        watch.ended(state(request(name)))
    assert len(watch.dues) == len(watch._ending) == 0


def test_an_arrival_is_one_that_enters_for_the_first_time():
    watch, one = OnlineWatch(), state(request("a", 20, slo=PACED))
    watch.admitted(one, 4)
    one.admit(4)
    one.preempt()
    watch.admitted(one, 16)
    assert (watch.arrivals.ttfts_ns(), watch.arrivals.prompt_tokens(0, 0)) == ([100 * MS], 16)


def test_who_has_ended_is_forgotten():
    watch, batch = both()
    one = decoding(watch, batch, state(request("a", slo=PACED)), 50 * MS)
    batch.remove(one)
    watch.ended(one)
    assert not watch._last_ns
    assert not watch._decoding
    assert len(watch.dues) == 0


def test_who_is_behind_its_tpot_stays_behind_where_its_end_asks_for_more():
    """10 tokens in 5 s instead of 1; what is left until 20 s is spread over twice the 90 to come."""
    watch, batch = both()
    one = state(request("a", slo=SLO(tpot_ns=100 * MS, e2e_ns=20_000 * MS), max_tokens=1000))
    one.expect(100)
    decoding(watch, batch, one, 0)
    for _ in range(9):
        batch.tick += 1
        one.append(1)
    watch.committed(5_000 * MS)
    watch.spread(5_000 * MS, expected)
    assert watch.dues.least(batch.tick, 5_000 * MS) == (1_000 * MS, "a")
    batch.tick += 1
    due = watch.dues.least(batch.tick, 5_000 * MS)
    assert due is not None
    assert 1_070 * MS < due.due_ns < 1_090 * MS
