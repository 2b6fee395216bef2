"""The largest chunk that fits, against trying them all."""

from hypothesis import given
from hypothesis import strategies as st

from brim.core.estimators.chunk_size import largest_chunk, with_chunk, with_decode
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs

TIME = StepTime(5_000_000, 20_000, ((8, 9_000),), 700, 4_000, 30_000, 11_000, 5_000)


def predict(shape: StepShape) -> int:
    return TIME.picoseconds(shape) // 1000


def test_a_row_adds_its_sizes():
    shape = StepShape(3, 0, 3, 90)
    assert with_chunk(shape, 5, 10) == StepShape(8, attention_pairs(5, 10), 3, 90)
    assert with_chunk(shape, 1, 10) == with_decode(shape, 11) == StepShape(4, 0, 4, 101)


@given(
    start=st.integers(0, 40),
    most=st.integers(-1, 40),
    decodes=st.integers(0, 9),
    limit_ns=st.integers(0, 20_000),
)
def test_it_is_the_largest_that_fits(start, most, decodes, limit_ns):
    others = StepShape(decodes, 0, decodes, 20 * decodes)
    fitting = [n for n in range(1, most + 1) if predict(with_chunk(others, n, start)) <= limit_ns]
    assert largest_chunk(predict, others, start, most, limit_ns) == max(fitting, default=0)


def test_two_tokens_may_fit_where_one_does_not():
    """One token is a decode, which reads its whole context for itself alone."""
    others, start = StepShape(0), 1000
    limit_ns = predict(with_chunk(others, 2, start))
    assert predict(with_chunk(others, 1, start)) > limit_ns
    assert largest_chunk(predict, others, start, 1, limit_ns) == 0
    assert largest_chunk(predict, others, start, 9, limit_ns) == 2


@given(
    fewer=st.integers(1, 40),
    more=st.integers(0, 40),
    start=st.integers(0, 40),
    decodes=st.integers(0, 9),
    limit_ns=st.integers(0, 20_000),
)
def test_fewer_tokens_come_in_chunks_as_large_or_in_a_single_one(fewer, more, start, decodes, limit_ns):
    """Where no chunk fits, all come at once."""
    others, most = StepShape(decodes, 0, decodes, 20 * decodes), fewer + more
    chunk_of_most = largest_chunk(predict, others, start, most, limit_ns) or most
    chunk = largest_chunk(predict, others, start, fewer, limit_ns) or fewer
    assert chunk == min(chunk_of_most, fewer)
