"""When tokens are due: target by target, and for many requests at once against a look at each of them."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brim.core.estimators.due_times import Due, DueTimes, Pacing, end_due_ns, first_due_ns, pacing
from brim.core.request import SLO, Request

MS = 1_000_000


def request(arrival_ns: int = 0, deadline_ns: int | None = None, **targets: int) -> Request:
    return Request("r", [1], arrival_ns=arrival_ns, deadline_ns=deadline_ns, slo=SLO(**targets))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ({}, Pacing(None, None)),
        ({"itl_ns": 30}, Pacing(30, None, 30)),
        ({"tpot_ns": 50}, Pacing(100, 50, 150)),
        ({"tpot_ns": 50, "itl_ns": 70}, Pacing(70, 50, 70)),
        ({"tpot_ns": 50, "itl_ns": 200}, Pacing(100, 50, 200)),
        ({"ttft_ns": 50}, Pacing(None, None)),
        ({"e2e_ns": 1100}, Pacing(None, 5)),  # 1000 ns for 100 tokens, and as many again
        ({"e2e_ns": 1100, "tpot_ns": 4}, Pacing(8, 4, 12)),
        ({"e2e_ns": 100}, Pacing(None, None)),  # lost with the first token
    ],
)
def test_what_a_request_asks_of_its_later_tokens(targets, expected):
    assert pacing(request(**targets), now_ns=100, to_come=100) == expected


def test_the_sooner_of_deadline_and_end_to_end_target():
    assert end_due_ns(request(arrival_ns=5, deadline_ns=90, e2e_ns=100)) == 90
    assert end_due_ns(request(arrival_ns=5, deadline_ns=190, e2e_ns=100)) == 105
    assert end_due_ns(request()) is None


def test_a_deadline_is_shared_between_prompt_and_answer_by_their_work():
    spread = request(arrival_ns=1000, e2e_ns=800)
    assert first_due_ns(spread, prefill_ns=100, decoding_ns=300) == 1200
    both = request(arrival_ns=1000, e2e_ns=800, ttft_ns=150)
    assert first_due_ns(both, prefill_ns=100, decoding_ns=300) == 1150
    assert first_due_ns(request(), 100, 300) is None


def test_deadlines_make_few_distinct_paces_and_never_slower_ones():
    spreads = range(10 * MS, 100 * MS, MS // 7)
    paces = {pacing(request(e2e_ns=spread), 0, 1, 1).per_token_ns for spread in spreads}
    assert len(paces) <= 8 * 4
    for spread in spreads:
        pace_ns = pacing(request(e2e_ns=spread), 0, 1, 1).per_token_ns
        assert 0.875 * spread < pace_ns <= spread


def test_a_banked_early_token_gives_time_only_up_to_the_gap():
    dues = DueTimes()
    dues.pace("r", Pacing(gap_ns=100, per_token_ns=50), first_ns=0)
    dues.start("r", num_drawn=1, tick=7)
    assert dues.least(7, last_ns=0) == Due(50, "r")
    assert dues.least(8, last_ns=10) == Due(
        100, "r"
    )  # the second came early: the third has all the time left
    assert dues.least(9, last_ns=20) == Due(120, "r")  # but no more than the gap
    assert dues.least(9, last_ns=95) == Due(150, "r")


def test_for_a_first_token_the_first_tokens_of_an_answer_are_due_together():
    dues = DueTimes()
    dues.pace("r", pacing(request(tpot_ns=50), now_ns=0, to_come=9), first_ns=0)
    dues.start("r", num_drawn=1, tick=7)
    assert [dues.least_for_first_tokens(tick, last_ns=10) for tick in (7, 8, 9)] == [150, 150, 150]
    assert dues.least_for_first_tokens(10, last_ns=130) == 200  # from then on as ever
    assert dues.least_for_first_tokens(20, last_ns=30) == 180  # time in hand, but no more than three times
    assert dues.least(20, last_ns=30) == Due(130, "r")  # ... and twice, where there is no such need


def test_for_a_first_token_no_gap_is_longer_than_its_target():
    dues = DueTimes()
    dues.pace("r", pacing(request(tpot_ns=50, itl_ns=60), now_ns=0, to_come=9), first_ns=0)
    dues.start("r", num_drawn=1, tick=0)
    assert dues.least_for_first_tokens(0, last_ns=0) == 60
    assert DueTimes().least_for_first_tokens(0, 0) is None


def test_who_sits_out_has_a_due_time_of_its_own():
    dues = DueTimes()
    dues.pace("r", Pacing(100, 50), first_ns=0)
    dues.start("r", 1, tick=0)
    dues.stop("r")
    assert dues.least(5, 500) is None
    assert dues.due_ns("r", num_drawn=3, last_ns=20) == 120
    assert dues.due_ns("r", num_drawn=3, last_ns=80) == 150
    assert dues.due_ns("nobody", 3, 80) is None
    dues.end("r")
    assert len(dues) == 0


def test_the_pace_of_many_steps_is_the_tightest_target():
    dues = DueTimes()
    assert dues.least_pace_ns() is None
    for request_id, wanted in (("a", Pacing(100, 50)), ("b", Pacing(40, None)), ("c", Pacing(None, None))):
        dues.pace(request_id, wanted, 0)
        dues.start(request_id, 1, 0)
    assert dues.least_pace_ns() == 40
    dues.end("b")
    assert dues.least_pace_ns() == 50


def test_the_work_does_not_grow_with_the_requests():
    """Looks per answer: one for each distinct target."""
    dues = DueTimes()
    for i in range(1000):
        dues.pace(f"r{i}", Pacing(60 + i % 2, 30 + i % 3), first_ns=i)
        dues.start(f"r{i}", 1, tick=i)
    assert len(dues._by_pace) == 3
    assert len(dues._by_gap) == 2


class ManyRequests(RuleBasedStateMachine):
    """Steps are scheduled, and requests start, pause, change and end at will; brute force looks at each."""

    ids = st.integers(0, 6).map("r{}".format)
    pacings = st.builds(
        Pacing,
        st.none() | st.sampled_from([20, 30, 45]),
        st.none() | st.sampled_from([7, 12, 25]),
        st.none() | st.sampled_from([45, 60]),
    )

    def __init__(self) -> None:
        super().__init__()
        self.dues = DueTimes()
        self.now_ns = self.tick = 0
        self.known: dict[str, tuple[Pacing, int]] = {}
        self.drawn: dict[str, int] = {}
        self.decoding: set[str] = set()

    @rule(request_id=ids, wanted=pacings, ago_ns=st.integers(0, 30))
    def pace(self, request_id, wanted, ago_ns):
        self.dues.pace(request_id, wanted, self.now_ns - ago_ns)
        self.known[request_id] = wanted, self.now_ns - ago_ns
        self.drawn.setdefault(request_id, 1)

    @rule(request_id=ids)
    def start(self, request_id):
        self.dues.start(request_id, self.drawn.get(request_id, 1), self.tick)
        if request_id in self.known:
            self.decoding.add(request_id)

    @rule(request_id=ids)
    def stop(self, request_id):
        self.dues.stop(request_id)
        self.decoding.discard(request_id)

    @rule(request_id=ids)
    def end(self, request_id):
        self.dues.end(request_id)
        self.decoding.discard(request_id)
        self.known.pop(request_id, None)
        self.drawn.pop(request_id, None)

    @rule(took_ns=st.integers(1, 40))
    def step(self, took_ns):
        self.now_ns += took_ns
        self.tick += 1
        for request_id in self.decoding:
            self.drawn[request_id] += 1

    @invariant()
    def the_least_is_the_least_of_all(self):
        dues, loose = [], []
        for request_id in self.decoding:
            (gap_ns, per_token_ns, longest_ns), first_ns = self.known[request_id]
            own = [] if gap_ns is None else [self.now_ns + gap_ns]
            if per_token_ns is not None:
                own.append(first_ns + self.drawn[request_id] * per_token_ns)
            alone_ns = self.dues.due_ns(request_id, self.drawn[request_id], self.now_ns)
            assert alone_ns == min(own, default=None)
            dues += own
            if gap_ns is not None:
                loose.append(self.now_ns + (longest_ns or gap_ns))
            if per_token_ns is not None:
                loose.append(first_ns + max(self.drawn[request_id], 3) * per_token_ns)
        found = self.dues.least(self.tick, self.now_ns)
        assert (None if found is None else found.due_ns) == min(dues, default=None)
        assert found is None or found.request_id in self.decoding
        assert self.dues.least_for_first_tokens(self.tick, self.now_ns) == min(loose, default=None)
        assert len(self.dues) == len(self.known)


TestManyRequests = ManyRequests.TestCase
TestManyRequests.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
