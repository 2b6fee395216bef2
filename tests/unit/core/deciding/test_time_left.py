"""What is left of a step's time: 10 ms a step and 1 ms a token, attention for nothing."""

import hypothesis.strategies as st
from hypothesis import given

from brim.core.deciding.time_left import TimeLeft
from brim.core.estimators.step_time import StepShape
from tests.helpers import MS

NOTHING = StepShape(0)


def predict(shape: StepShape) -> int:
    return 10 * MS + MS * shape.new_tokens


def left(limit_ms: int | None, online: int = 5, least_tokens: int = 4) -> TimeLeft:
    limit_ns = None if limit_ms is None else limit_ms * MS
    return TimeLeft(predict, StepShape(online, 0, online, 10 * online), limit_ns, least_tokens)


def test_a_chunk_fills_the_time():
    assert left(30).chunk(0, 100) == 15
    assert left(30).chunk(0, 7) == 7
    assert left(15).chunk(0, 100) == 0


def test_without_a_limit_there_is_time_for_all():
    assert left(None).chunk(0, 10**6) == 10**6
    assert left(None).add_last([5, 6]) == 0


def test_chunks_make_no_step_of_a_size_of_which_nothing_is_known():
    time = TimeLeft(predict, StepShape(5, 0, 5, 50), 100 * MS, 4, known_tokens=12)
    assert time.chunk(0, 100) == 7
    time.add_chunk(0, 7)
    assert time.chunk(0, 100) == 0
    few_known = TimeLeft(predict, StepShape(7, 0, 7, 70), 100 * MS, 4, known_tokens=6)
    assert few_known.chunk(0, 100) == 4  # else it would never be more
    few_known.add_chunk(0, 3)
    assert few_known.chunk(0, 100) == 1
    assert TimeLeft(predict, NOTHING, 100 * MS, 4, known_tokens=0).chunk(0, 100) == 4
    assert TimeLeft(predict, NOTHING, None, 4, known_tokens=0).chunk(0, 100) == 100


def test_what_was_added_takes_time_from_the_next():
    time = left(30)
    time.add_chunk(0, 10)
    assert time.chunk(0, 100) == 5
    assert time.offline_part == StepShape(10, 55, 0, 0)


def test_a_machine_without_online_work_is_never_idle_for_a_target():
    idle = left(1, online=0)
    assert (idle.chunk(0, 100), idle.chunk(0, 3)) == (4, 3)
    idle.add_chunk(0, 4)
    assert idle.chunk(0, 100) == 0
    assert left(1, online=0).add_last([7] * 6) == 2


def test_a_limit_that_leaves_time_for_a_token_holds_on_an_idle_machine_too():
    assert left(12, online=0).chunk(0, 100) == 2
    assert left(12, online=0).add_last([7] * 6) == 4


def test_all_decodes_or_none():
    time = left(20)
    assert not time.add_all(6, 60)
    assert time.shape == StepShape(5, 0, 5, 50)
    assert time.add_all(5, 60)
    assert time.offline_part == StepShape(5, 0, 5, 60)


def test_nobody_decodes_though_there_is_no_time():
    assert left(1).add_all(0, 0)


def test_the_last_stay_the_first_are_left_out():
    time = left(18)
    assert time.add_last([100, 20, 3, 4, 5]) == 2
    assert time.offline_part == StepShape(3, 0, 3, 12)


def test_all_may_have_to_be_left_out():
    time = left(15)
    assert time.add_last([1, 2]) == 2
    assert time.offline_part == NOTHING


@given(
    st.integers(0, 60),
    st.integers(0, 8),
    st.integers(1, 5),
    st.lists(st.integers(1, 50), max_size=12),
)
def test_as_many_as_there_is_time_for_and_no_fewer(limit_ms, online, least_tokens, contexts):
    time = left(limit_ms, online, least_tokens)
    stay = len(contexts) - time.add_last(contexts)
    fits = [n for n in range(len(contexts) + 1) if predict(StepShape(online + n)) <= limit_ms * MS]
    least = 0 if online else min(least_tokens, len(contexts))
    assert stay == (max(fits, default=0) or least)
    assert time.shape.decode_context == 10 * online + sum(contexts[len(contexts) - stay :])
