"""Documents have LooGLE's sizes; a working set holds what it says; the control shares nothing."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError, TraceError
from brim.workloads.documents import documents_of, loogle_shaped
from brim.workloads.formats import read, write
from brim.workloads.mixing import mixed
from brim.workloads.statistics import statistics
from brim.workloads.trace import Trace, TraceRequest, shuffled, unshared

BLOCK = 4


def trace_of(*documents: tuple[int, int]) -> Trace:
    """(blocks, questions) of each document; the question's number is in its output tokens."""
    requests = [
        TraceRequest(
            place, size * BLOCK + 1, 1 + number, block_ids=tuple(range(100 * place, 100 * place + size))
        )
        for place, (size, questions) in enumerate(documents)
        for number in range(questions)
    ]
    return Trace("t", requests, BLOCK)


def most_open_tokens(trace: Trace) -> int:
    """The largest sum of prefixes of documents begun and not finished."""
    left = Counter(r.block_ids for r in trace.requests)
    begun: set[tuple[int, ...]] = set()
    most = 0
    for request in trace.requests:
        begun.add(request.block_ids)
        most = max(most, sum(len(ids) for ids in begun) * BLOCK)
        left[request.block_ids] -= 1
        if not left[request.block_ids]:
            begun.remove(request.block_ids)
    return most


def test_loogle_shape() -> None:
    trace = loogle_shaped()
    documents = [len(list(group)) for _, group in groupby(trace.requests, key=lambda r: r.block_ids)]
    assert (len(trace), len(documents)) == (6448, 776), "grouped by document"
    assert min(documents) == 1
    assert 30 < max(documents) < 150
    figures = statistics(trace)
    assert figures.input_tokens.mean == pytest.approx(24_000, rel=0.05)
    assert figures.output_tokens.mean == pytest.approx(27.5, rel=0.02)
    assert figures.seen_block_share == pytest.approx(1 - 776 / 6448, rel=0.05)
    assert all(len(r.block_ids) * 16 <= r.input_tokens for r in trace.requests)
    mixed = shuffled(trace, seed=1)
    assert len(list(groupby(mixed.requests, key=lambda r: r.block_ids))) > 6000
    assert statistics(mixed).seen_block_share == figures.seen_block_share


def test_seeds() -> None:
    assert loogle_shaped(700, 1) == loogle_shaped(700, 1)
    assert loogle_shaped(700, 1).requests != loogle_shaped(700, 2).requests
    trace = loogle_shaped(50)
    assert mixed(trace, 10**6, 1) == mixed(trace, 10**6, 1)
    assert mixed(trace, 10**6, 1).requests != mixed(trace, 10**6, 2).requests


@pytest.mark.parametrize("times", [1, 2, 5, 10])
def test_documents_for_so_many_tokens(times: int) -> None:
    kv_tokens = 450_912
    figures = statistics(loogle_shaped(documents_of(times * kv_tokens)))
    assert figures.prefix_tokens == pytest.approx(times * kv_tokens, rel=0.06)
    assert documents_of(1) == 1
    with pytest.raises(ConfigError, match="0 tokens of documents"):
        documents_of(0)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=12),
    st.integers(1, 150),
    st.integers(0, 3),
)
def test_a_working_set_is_never_exceeded_and_loses_nothing(
    documents: list[tuple[int, int]], working_set_tokens: int, seed: int
) -> None:
    trace = trace_of(*documents)
    order = mixed(trace, working_set_tokens, seed)
    assert [r.arrival_ns for r in order.requests] == [r.arrival_ns for r in trace.requests]
    assert Counter(r[1:] for r in order.requests) == Counter(r[1:] for r in trace.requests)
    largest = max(size for size, _ in documents) * BLOCK
    assert most_open_tokens(order) <= max(working_set_tokens, largest)
    for ids in {r.block_ids for r in trace.requests}:
        numbers = [r.output_tokens for r in order.requests if r.block_ids == ids]
        assert numbers == sorted(numbers), "the order inside a document stays"


def test_a_working_set_is_used_up() -> None:
    trace = trace_of(*[(5, 4)] * 40)
    assert most_open_tokens(mixed(trace, 10 * 5 * BLOCK, seed=1)) == 10 * 5 * BLOCK
    assert mixed(trace, 1).requests == trace.requests, "one document after the other"


def test_requests_without_prefixes_hold_nothing() -> None:
    bare = [TraceRequest(0, 9, 1 + i) for i in range(3)]
    trace = Trace("t", [*trace_of((2, 2)).requests, *bare], BLOCK)
    assert Counter(mixed(trace, 1).requests) == Counter(trace.requests)
    with pytest.raises(TraceError, match=r"no block ids.*shuffle it instead"):
        mixed(Trace("t", bare, BLOCK), 100)
    with pytest.raises(ConfigError, match="a working set of 0 tokens"):
        mixed(trace, 0)


def test_the_control_has_the_lengths_and_shares_nothing(tmp_path: Path) -> None:
    trace = shuffled(loogle_shaped(20), 1)
    control = unshared(trace)
    assert [r[:3] for r in control.requests] == [r[:3] for r in trace.requests]
    assert not any(r.block_ids for r in control.requests)
    assert (control.block_tokens, statistics(control).prefix_tokens) == (16, None)
    write(control, tmp_path / "control.csv")
    assert read(tmp_path / "control.csv").requests == control.requests
    assert read(tmp_path / "control.csv").block_tokens == 16, "so that prefix caching stays on"
