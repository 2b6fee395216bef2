"""A journal of decisions is a trace of the traffic it saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from brim.core.config import SchedulerConfig
from brim.core.errors import TraceError
from brim.core.request import SLO, TaskClass
from brim.workloads.formats import read, write
from brim.workloads.journals import Journal, load_journal
from brim.workloads.trace import NANOSECONDS
from tests.helpers import MS, OFFLINE, request
from tests.journals import WritingHost


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "brim.77"


def traffic(host: WritingHost) -> WritingHost:
    shared = [7] * 8
    slo = SLO(ttft_ns=9 * MS)
    host.add(request("a", [*shared, 1], 5, slo=slo), request("b", [*shared, 2], 3, slo=slo))
    for _ in range(4):
        host.watched_step()
    late = {"arrival_ns": host.now_ns, "deadline_ns": host.now_ns + NANOSECONDS}
    host.add(replace(request("c", [3] * 30, 4, task_class=OFFLINE, **late), length_keys=("t",)))
    host.add(request("d", 6, 9, arrival_ns=host.now_ns))
    host.watched_step()
    return host


def test_a_journal_is_a_trace(path: Path) -> None:
    host = traffic(WritingHost(path)).serve()
    trace = read(path)
    a, b, c, d = trace.requests
    assert host.ended == {"a": 5, "b": 3, "c": 4, "d": 9}
    assert [r.output_tokens for r in trace.requests] == [5, 3, 4, 9]
    assert [r.input_tokens for r in trace.requests] == [9, 9, 30, 6]
    assert (a.arrival_ns, c.arrival_ns) == (0, 4 * MS)
    assert (c.task_class, c.deadline_s, c.length_key) == (TaskClass.OFFLINE, 1.0, "t")
    assert a.block_ids == b.block_ids  # two whole blocks
    assert len(a.block_ids) == 2
    assert not set(a.block_ids) & set(c.block_ids)
    assert len(d.block_ids) == 1
    assert trace.block_tokens == 4
    assert trace.note == "from a journal of decisions, policy brim"
    write(trace, path.with_suffix(".csv"))
    assert read(path.with_suffix(".csv")).requests == trace.requests


def test_who_leaves_counts_with_what_was_drawn(path: Path) -> None:
    host = WritingHost(path)
    host.add(request("a", 4, 20), request("b", 4, 20), request("c", 100, 20))
    for _ in range(4):
        host.watched_step()
    assert host.requests["c"].num_computed < 100
    host.abort("a")
    host.abort("c")
    trace = read(path)
    drawn = len(host.requests["b"].token_ids) - 4
    assert [r.output_tokens for r in trace.requests] == [drawn]
    left_out = "1 request that had not ended left out; 1 request without output tokens left out"
    assert trace.note.endswith(left_out)
    host.scheduler.close()


def test_steps_and_latencies_are_those_of_the_host(path: Path) -> None:
    host = WritingHost(path)
    host.add(request("a", 10, 5))
    host.serve()
    journal = load_journal(path)
    served = journal.requests["a"]
    assert journal.depth == 2
    assert [step.shape.new_tokens for step in journal.steps] == [10, 1, 1, 1, 1]
    assert [step.took_ns for step in journal.steps] == [MS] * 5
    assert served.ttft_seconds == pytest.approx(2 * MS / NANOSECONDS)  # the host is two steps deep
    assert served.tpot_seconds == pytest.approx(MS / NANOSECONDS)


def test_the_targets_that_most_had(path: Path) -> None:
    traffic(WritingHost(path)).serve()
    assert load_journal(path).targets() == ({"ttft_ns": 9 * MS}, 2, 3)
    assert Journal().targets() == ({}, 0, 0)


def test_a_request_that_is_adopted_later_is_one(path: Path) -> None:
    host = WritingHost(path)
    host.add(request("a", 4, 8))
    for _ in range(4):
        host.watched_step()
    while host._in_flight:
        host._finish()
    host.scheduler.close()
    host.scheduler = host.make(None)
    host.pool.observer = host.scheduler.observer
    for asked in list(host.requests.values()):
        host.scheduler.adopt(asked.asked, host.now_ns)
    host.serve()
    (only,) = read(path).requests
    assert only.output_tokens == 8


def test_without_prefix_caching_nobody_shares(path: Path) -> None:
    traffic(WritingHost(path, enable_prefix_caching=False)).serve()
    trace = read(path, "journal")
    assert trace.block_tokens == 0
    assert not any(r.block_ids for r in trace.requests)


def test_a_line_that_is_still_being_written_is_left_out(path: Path) -> None:
    traffic(WritingHost(path)).serve()
    whole = read(path)
    path.write_text(path.read_text() + '{"call":"ran","now_')
    assert read(path) == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"brim_journal":1,"config":{}}\n', "line 1: this journal has format 1; known is 2"),
        ('{"brim_journal":2,"config":{}}\n{"call":"ended"}\n', "line 2: no line of a journal"),
        ('{"brim_journal":2,"config":{}}\n[]\n', "line 2: no line of a journal"),
        ('{"brim_journal":2,\n', "line 2: not JSON"),
    ],
)
def test_what_is_no_journal_is_refused(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(TraceError, match=said):
        read(path)


def test_a_trace_is_no_journal(path: Path) -> None:
    path.write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(TraceError, match="is no journal of decisions"):
        load_journal(path)
    with pytest.raises(TraceError, match="needs what Brim's `decision_log` wrote"):
        read(path, "journal")


def test_a_configuration_is_kept(path: Path) -> None:
    WritingHost(path).scheduler.close()
    assert SchedulerConfig(**load_journal(path).config).num_blocks == 40  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="no request in it"):
        read(path)
