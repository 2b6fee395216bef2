"""Which request is added: 10 ms a step and 1 ms a prompt token, so that every score is worked out by hand."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from brim.core.estimators.chunk_size import with_chunk
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.step_time import StepShape, StepTime
from brim.core.offline.planning import Offer, Planning
from tests.helpers import MS, OFFLINE, request, state

PS = 1_000_000_000  # in a millisecond
STEP_TIME = StepTime(10 * PS, PS, (), 0, 0, 0)
NOTHING = StepShape(0)


def planning(*, by_rate: bool = True, block_size: int = 4) -> Planning:
    return Planning(RefittedStepTime(STEP_TIME), block_size, by_rate=by_rate)


def offer(name: str, prompt: int = 32, hit: int = 0, chunk: int = 8, wanted: int = 0) -> Offer:
    return Offer(state(request(name, prompt, task_class=OFFLINE)), hit, chunk, wanted)


def work_ms(tokens: int) -> float:
    """In steps 32 times as large the constant is shared by all."""
    return tokens + 10 / 32


def test_work_is_what_it_takes_in_large_steps():
    assert planning().work_ns(StepShape(8)) == work_ms(8) * MS
    assert planning().work_ns(NOTHING) == 0


def test_the_gain_is_the_chunk_and_its_part_of_the_hit_less_the_loss():
    rule = planning()
    assert rule.gain_ns(offer("a")) == pytest.approx(work_ms(8) * MS)
    assert rule.gain_ns(offer("a", hit=16)) == pytest.approx((work_ms(8) + work_ms(16) / 2) * MS)
    assert rule.gain_ns(offer("a", wanted=2)) == pytest.approx((work_ms(8) - work_ms(8) / 4) * MS)


def test_the_longest_hit_goes_first():
    offers = [offer("a"), offer("b", hit=8), offer("c", hit=16)]
    assert planning().best(offers, NOTHING, 0) is offers[2]


def test_into_a_step_without_offline_work_even_a_bad_offer_is_taken():
    bad = offer("a", chunk=1, wanted=20)
    assert planning().gain_ns(bad) < 0
    assert planning().best([bad], NOTHING, 0) is bad
    assert planning().best([], NOTHING, 0) is None


def test_what_makes_the_step_worse_stays_out():
    rule, step = planning(), StepShape(20)
    bad, good = offer("a", chunk=8, wanted=8), offer("b", chunk=8)
    assert rule.best([bad], step, rule.work_ns(step)) is None
    assert rule.best([bad, good], step, rule.work_ns(step)) is good


def test_every_sixteenth_step_takes_in_who_gains_anything():
    rule = planning()
    assert [tick for tick in range(40) if rule.together(tick)] == [8, 24]
    bad, good = offer("a", chunk=8, wanted=80), offer("b", chunk=8)
    assert rule.gaining([bad, good]) == [good]


def test_a_draw_keeps_the_step_as_it_is():
    """A step takes 10 ms whatever is in it, and the request is worth what it would cost."""
    free, step = Planning(RefittedStepTime(StepTime(10 * PS, 0, (), 0, 0, 0)), 4), StepShape(20)
    assert free.best([offer("a", prompt=8, wanted=2)], step, free.work_ns(step)) is None
    assert free.best([offer("a", prompt=8)], step, free.work_ns(step)) is not None


@given(
    st.lists(
        st.builds(
            offer,
            st.sampled_from("abc"),
            st.just(40),
            st.integers(0, 20),
            st.integers(1, 20),
            st.integers(0, 5),
        ),
        max_size=6,
    ),
    st.integers(0, 50),
    st.booleans(),
)
def test_the_best_is_the_one_with_the_highest_score(offers, before, by_rate):
    rule, step = planning(by_rate=by_rate), StepShape(before)
    gain_ns = rule.work_ns(step)

    def score(one: Offer | None) -> float:
        shape = step if one is None else with_chunk(step, one.chunk_tokens, one.hit_tokens)
        gain = gain_ns + (0 if one is None else rule.gain_ns(one))
        took_ns = STEP_TIME.picoseconds(shape) // 1000
        return gain / took_ns if by_rate else gain - took_ns

    scores = [score(one) for one in offers]
    best = rule.best(offers, step, gain_ns)
    if best is None:
        assert not offers or (before and max(scores) <= score(None))
    else:
        assert score(best) == max(scores)
        assert not before or score(best) > score(None)
