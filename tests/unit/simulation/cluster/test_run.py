"""A cluster of one is a replica; more than one lose nothing, and no stretch put off changes a figure."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, repeat

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.request import FinishReason, TaskClass
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.routing import ROUTINGS, routing
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.run import Setup, simulate
from brim.workloads.trace import Trace
from tests.helpers import ONLINE
from tests.unit.simulation.cluster.scenarios import cluster, result, run, stepped
from tests.unit.simulation.scenarios import NO_CLOCK, asked, setup, trace
from tests.unit.simulation.workloads import TRACES, setups


def answered(requests: Trace) -> Trace:
    """Online requests only, each with an answer."""
    return replace(
        requests,
        requests=[
            r._replace(task_class=ONLINE, output_tokens=max(r.output_tokens, 1)) for r in requests.requests
        ],
    )


def flat(row: object, path: str = "") -> dict[str, object]:
    """By the path of each figure."""
    if isinstance(row, dict | list):
        items = row.items() if isinstance(row, dict) else enumerate(row)
        parts = [flat(value, f"{path}.{name}") for name, value in items]
        return {name: value for part in parts for name, value in part.items()}
    return {path: row}


@settings(max_examples=60, deadline=None)
@given(TRACES.map(answered), setups())
def test_a_cluster_of_one_is_a_replica(requests: Trace, on: Setup):
    alone = simulate(requests, on, stopwatch=NO_CLOCK).by_class[ONLINE]
    one = run(requests, cluster(1, on)).by_class[ONLINE]
    for name in ("arrived", "judged", "ended_well", "preempted", "recomputed_tokens", "output_tokens", "slo"):
        assert getattr(one, name) == getattr(alone, name), name
    for name in ("ttft_seconds", "itl_seconds", "e2e_seconds", "queue_seconds"):
        assert getattr(one, name).sum == pytest.approx(getattr(alone, name).sum), name
        assert getattr(one, name).count == getattr(alone, name).count, name


@settings(max_examples=60, deadline=None)
@given(TRACES, setups(), st.integers(1, 3), st.sampled_from(ROUTINGS))
def test_quiet_stretches_put_off_change_no_figure(requests: Trace, on: Setup, replicas: int, rule: str):
    chosen = routing(rule, on.machine, requests.block_tokens)
    many = cluster(replicas, on, chosen, window_ns=50_000_000, offline_depth=2)
    assert flat(result(requests, many)) == pytest.approx(flat(result(requests, stepped(many))))


@settings(max_examples=60, deadline=None)
@given(TRACES, setups(), st.integers(1, 3), st.sampled_from(ROUTINGS))
def test_every_request_ends_once_and_two_runs_are_equal(requests: Trace, on: Setup, replicas: int, rule: str):
    many = cluster(replicas, on, routing(rule, on.machine, requests.block_tokens), offline_depth=1)
    first, second = run(requests, many), run(requests, many)
    assert sum(m.finished.total() for m in first.by_class.values()) == len(requests)
    assert sum(m.arrived for m in first.by_class.values()) == len(requests)
    assert figures(first) == figures(second)


def test_two_replicas_serve_two_requests_at_once():
    both = result(trace(asked(0, 4, 2), asked(0, 4, 2)))[ONLINE]
    assert both["ttft_seconds"]["mean"] == pytest.approx(0.014, rel=0.01)
    assert both["e2e_seconds"]["mean"] == pytest.approx(0.025, rel=0.01)


def test_offline_requests_go_where_there_is_room():
    """One replica computes a long prompt; the other drains the backlog of three meanwhile."""
    offline = [asked(0, 4, 1, TaskClass.OFFLINE) for _ in range(3)]
    found = run(trace(asked(0, 60, 40), *offline), cluster(offline_depth=1))
    assert found.backlog_left == 0
    assert found.by_class[TaskClass.OFFLINE].ended_well == 3
    assert found.offline_done_ns is not None


def test_spare_work_is_read_only_as_there_is_room():
    """Steps of one seat take 10 + 4 ms: 7 requests in 100 ms, and the eighth is under way."""
    read: list[int] = []

    def endless():
        for i in count():
            read.append(i)
            yield [asked(0, 4, 1)]

    on = cluster(1, setup(settings={"max_num_seqs": 1}), offline_depth=1, stop_ns=100_000_000)
    found = simulate_cluster(trace(asked(0, 4, 1)), on, spare=endless(), stopwatch=NO_CLOCK)
    assert found.by_class[TaskClass.OFFLINE].ended_well == 6
    assert len(read) == 7


def test_spare_work_that_nobody_can_hold_is_read_once_in_a_window():
    """400 tokens of KV hold no prompt of 500. To read another at once would never end."""
    on = cluster(1, offline_depth=2, window_ns=20_000_000, spare_until_ns=50_000_000)
    online = trace(asked(0, 4, 1), asked(100, 4, 1))
    found = simulate_cluster(online, on, spare=repeat([asked(0, 500, 1)]), stopwatch=NO_CLOCK)
    assert found.by_class[TaskClass.OFFLINE].finished[FinishReason.REFUSED] == 2 * 3
    assert found.by_class[TaskClass.ONLINE].ended_well == 2


def test_a_seat_of_a_refused_request_goes_to_one_that_came():
    offline = [asked(0, tokens, 1, TaskClass.OFFLINE) for tokens in (500, 500, 500, 4)]
    found = run(trace(*offline), cluster(1, offline_depth=1))
    assert found.by_class[TaskClass.OFFLINE].ended_well == 1
    assert found.offline_done_ns == 14_000_000


def test_spare_work_that_begins_alike_goes_to_one_replica():
    """Two replicas with one seat each: every document is computed by one of them."""
    on = setup(settings={"max_num_seqs": 1, "enable_prefix_caching": True})
    documents = [[asked(0, 8, 1, block_ids=(document,))] * 4 for document in range(6)]
    online = Trace("t", [asked(10_000, 4, 1)], block_tokens=8)
    two = cluster(2, on, offline_depth=1)
    found = figures(simulate_cluster(online, two, spare=documents, stopwatch=NO_CLOCK))
    assert found["offline"]["prefix_hit_rate"] == pytest.approx(3 / 4 * 4 / 8)


def test_the_end_cuts_the_run_and_says_what_is_left():
    offline = [asked(0, 4, 50, TaskClass.OFFLINE) for _ in range(5)]
    found = run(trace(*offline), cluster(1, offline_depth=2, stop_ns=100_000_000))
    assert found.backlog_left == 3
    assert found.offline_done_ns is None
    assert found.notes[-1].now_ns == 100_000_000


def test_windows_add_up_to_the_whole():
    requests = trace(*(asked(20 * i, 4, 5) for i in range(20)))
    whole = result(requests, cluster(window_ns=70_000_000))
    tokens = sum(
        (after["until_seconds"] - before) * after["online_tokens_per_second"]
        for before, after in zip(
            [0, *(w["until_seconds"] for w in whole["windows"])], whole["windows"], strict=False
        )
    )
    assert tokens == pytest.approx(100)


def test_seats_are_filled_by_shared_groups_first():
    on = setup(settings={"max_num_seqs": 1, "enable_prefix_caching": True})
    docs = [asked(0, 8, 1, TaskClass.OFFLINE, block_ids=(i % 2 + 1,)) for i in range(8)]
    hits = result(trace(*docs, block_tokens=8), cluster(2, on, offline_depth=1))["offline"]["prefix_hit_rate"]
    assert hits == pytest.approx(6 * 4 / (8 * 8))  # of 8 tokens the last block is computed: 4 can be hit
