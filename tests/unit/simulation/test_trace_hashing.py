"""Contents are equal where the trace says so, and nowhere else."""

from __future__ import annotations

import pytest

from brim.core.errors import ConfigError
from brim.simulation.truth import TraceHashing, refuse_unchained
from brim.workloads.trace import Trace, TraceRequest
from tests.helpers import request, state


def names(block_size: int, *prompts: tuple[int, tuple[int, ...]], block_tokens: int = 8, extra: int = 0):
    """The names of the whole blocks of each (prompt tokens, ids) and `extra` output tokens."""
    trace = Trace("t", [TraceRequest(0, tokens, 1, block_ids=ids) for tokens, ids in prompts], block_tokens)
    hashing = TraceHashing(trace, block_size, max_model_len=64)
    every = []
    for i, (tokens, _) in enumerate(prompts):
        view = state(request(str(i), [0] * tokens, 9))
        view.admit(0)
        for _ in range(extra):
            view.append(0)
        hashes: list = []
        hashing.extend(hashes, view, block_size)
        every.append(hashes)
    return every


def test_blocks_inside_equal_ids_are_equal():
    one, other = names(4, (20, (3, 5)), (20, (3, 6)))
    assert (len(one), len(other)) == (5, 5)
    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])


def test_what_no_id_covers_and_the_output_are_the_requests_own():
    one, other = names(4, (10, (3,)), (10, (3,)), extra=6)
    assert one[:2] == other[:2]
    assert len(one) == 4
    assert not set(one[2:]) & set(other[2:])


def test_a_last_id_that_the_prompt_does_not_fill_covers_whole_blocks_only():
    one, other = names(4, (13, (3, 5)), (13, (3, 5)), extra=8)
    assert one[:3] == other[:3]
    assert not set(one[3:]) & set(other[3:])


def test_all_blocks_of_a_request_have_different_names():
    [one] = names(2, (17, (3, 4)), extra=5)
    assert len(set(one)) == len(one) == 11


def test_names_are_the_same_however_many_are_asked_for_at_a_time():
    trace = Trace("t", [TraceRequest(0, 12, 9, block_ids=(1,))], 8)
    hashing, view = TraceHashing(trace, 4, 64), state(request("0", [0] * 12, 9))
    view.admit(0)
    grown: list = []
    for _ in range(8):
        hashing.extend(grown, view, 4)
        view.append(0)
    hashing.extend(grown, view, 4)
    at_once: list = []
    hashing.extend(at_once, view, 4)
    assert grown == at_once


def test_a_block_that_does_not_divide_the_traces_is_refused():
    with pytest.raises(ConfigError, match="take a divisor, or switch prefix caching off"):
        names(3, (12, (1,)))


@pytest.mark.parametrize("ids", [(3, 3), (5,), (4, 5), (3, 6, 5)])
def test_ids_that_do_not_name_all_before_them_are_refused(ids):
    trace = Trace("t", [TraceRequest(0, 24, 1, block_ids=each) for each in ((3, 5), ids)], 8)
    with pytest.raises(ConfigError, match="give each prefix an id of its own"):
        refuse_unchained(trace)
