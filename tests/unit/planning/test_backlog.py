"""What stands for a backlog: all of it in equal shares, documents whole, and nothing that fits nowhere."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from brim.core.errors import ConfigError, TraceError
from brim.planning.backlog import KEPT, RUN, Backlog, endless
from brim.planning.page import page
from brim.planning.plan import plan
from brim.planning.report import text
from brim.workloads.trace import Trace, TraceRequest
from tests.unit.planning.scenarios import lengths, nobody, question


def documents(count: int, questions: int, blocks: int = 20, block_tokens: int = 16) -> Trace:
    """Questions of one document begin with all of its blocks; they come in turns."""
    ids = [tuple(range(document * blocks, (document + 1) * blocks)) for document in range(count)]
    tokens = blocks * block_tokens
    requests = [TraceRequest(0, tokens + 1, 8, block_ids=ids[i % count]) for i in range(count * questions)]
    return Trace("documents", requests, block_tokens, has_arrivals=False)


def test_a_short_backlog_is_given_out_whole():
    drawn = lengths((1, 2), (3, 4), (5, 6)).drawn(0)
    assert sorted((r.input_tokens, r.output_tokens) for [r] in drawn) == [(1, 2), (3, 4), (5, 6)]


def test_of_a_long_one_all_of_it_has_a_share():
    """Its first half is short, the second long."""
    trace = Trace("t", [TraceRequest(0, 1 + i // (2 * KEPT), 1) for i in range(4 * KEPT)])
    drawn = Backlog(trace, 0.0).drawn(1)
    assert sum(map(len, drawn)) == KEPT
    assert sum(r.input_tokens == 1 for run in drawn for r in run) == pytest.approx(KEPT / 2, rel=0.05)


def test_documents_stay_whole():
    drawn = Backlog(documents(count=2000, questions=10), 0.0).drawn(0)
    assert {len(run) for run in drawn} == {10}
    assert {len({r.block_ids for r in run}) for run in drawn} == {1}
    assert sum(map(len, drawn)) == KEPT


def test_of_what_all_begins_alike_those_that_share_most_stay_together():
    """One instruction before 400 documents, of 50 questions each."""
    trace = Trace(
        "t", [TraceRequest(0, 33, 1, block_ids=(7, 8 + i % 400)) for i in range(400 * 50)], block_tokens=16
    )
    drawn = Backlog(trace, 0.0).drawn(0)
    assert {len(run) for run in drawn} == {RUN}
    assert all(len({r.block_ids for r in run}) == RUN // 50 for run in drawn)


def test_each_round_has_prefixes_of_its_own():
    runs = Backlog(documents(count=3, questions=2), 0.0).drawn(0)
    rounds = list(islice(endless(runs), 9))
    readers = Counter(block_id for run in rounds for r in run for block_id in r.block_ids)
    assert len(readers) == 3 * 3 * 20
    assert set(readers.values()) == {2}
    assert all(run[0].block_ids is run[1].block_ids for run in rounds)


def test_what_no_replica_holds_is_left_out_and_told():
    """As many tokens beside it as without them: a request of 4000 tokens in 3200 counts nowhere."""
    long, short = (3900, 100), (60, 20)
    mixed = plan(question(backlog=lengths(long, short, tokens=8160.0)), 1, nobody)
    alone = plan(question(backlog=lengths(short, tokens=160.0)), 1, nobody)
    [with_long], [without] = mixed["plans"], alone["plans"]
    assert with_long["backlog_too_long"] == 1
    told = "1 of the backlog's 2 requests does not fit in the 3200 tokens of a replica's KV cache"
    assert told in text(mixed)
    assert told.replace("'", "&#x27;") in page(mixed)
    assert with_long["offline"]["backlog"]["tokens"] == pytest.approx(160.0)
    assert with_long["offline"]["tokens_per_second"] == pytest.approx(
        without["offline"]["tokens_per_second"], rel=0.05
    )


def test_longer_requests_than_the_online_ones_are_done_where_they_fit():
    """The online ones need 512 tokens at most. A replica makes less than 5000 tokens a second of prompts."""
    found = plan(question(backlog=lengths((2000, 20), tokens=1e6)), 1, nobody)
    [one] = found["plans"]
    assert one["backlog_too_long"] == 0
    assert 0 < one["offline"]["tokens_per_second"] < 5000 * one["replicas"]


def test_a_backlog_of_which_nothing_fits_ends_and_is_told():
    found = plan(question(backlog=lengths((4000, 20), tokens=1e6)), 1, nobody)
    assert found["plans"][0]["offline"] is None
    assert "1 of the backlog's 1 request does not fit" in text(found)


def test_a_shared_document_is_computed_once():
    trace = documents(count=20, questions=20)
    tokens = float(sum(r.input_tokens + r.output_tokens for r in trace.requests))
    bare = Trace("bare", [r._replace(block_ids=()) for r in trace.requests], has_arrivals=False)
    shared, alone = (
        plan(question(backlog=Backlog(each, tokens)), 1, nobody)["plans"][0]["offline"]
        for each in (trace, bare)
    )
    assert shared["tokens_per_second"] > 2 * alone["tokens_per_second"]


def test_what_stands_for_a_long_backlog_is_told():
    found = plan(question(backlog=lengths(*[(60, 20)] * (KEPT + 1), tokens=1e4)), 1, nobody)
    assert "of the backlog: 5000 of its 5001 requests at most, drawn from all over it" in text(found)


def test_ids_that_a_replica_could_not_use_are_refused():
    online = question().trace
    odd = Trace("odd", [r._replace(block_ids=(i,)) for i, r in enumerate(online.requests)], block_tokens=32)
    with pytest.raises(TraceError, match="join the small ones first"):
        plan(question(trace=odd, backlog=Backlog(documents(2, 2), 1.0)), 1, nobody)
    unchained = Trace("u", [TraceRequest(0, 48, 1, block_ids=ids) for ids in ((1, 3), (2, 3))], 16)
    with pytest.raises(ConfigError, match="stands behind both"):
        plan(question(backlog=Backlog(unchained, 1.0)), 1, nobody)
