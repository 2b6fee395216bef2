"""The plan against the cluster simulation run by hand, and what is said where there is none."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from brim.core.errors import ConfigError
from brim.planning.offline import backlog_done
from brim.planning.page import page
from brim.planning.plan import Question, plan
from brim.planning.question import Aim, Load, cluster
from brim.planning.report import text
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.run import simulate_cluster
from brim.workloads.arrivals import AllAtOnce, Poisson
from brim.workloads.lengths import synthetic
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest, with_arrivals
from tests.helpers import MS
from tests.unit.planning.scenarios import lengths, nobody, question


@pytest.fixture(scope="module")
def planned():
    return plan(question(backlog=lengths((60, 20), tokens=5e4)), 1, nobody)


def test_the_least_holds_and_one_fewer_does_not(planned):
    asked, [one] = question(), planned["plans"]
    load = Load(asked.trace, 4096, 10**9)

    def attained(replicas: int) -> float:
        run = simulate_cluster(asked.trace, cluster(asked.kinds[0], load, asked.aim, replicas))
        return figures(run)["online"]["slo_attainment"]

    assert one["replicas"] > 1
    assert attained(one["replicas"]) >= 0.95 > attained(one["replicas"] - 1)
    assert one["cost_per_hour"] == 2.0 * one["gpus"]


def test_the_band_holds_the_answer_and_slower_steps_need_no_fewer(planned):
    [one] = planned["plans"]
    band = one["band"]
    assert band["least"] <= one["replicas"] <= band["most"]
    slow, fast = (run["replicas"] for run in band["runs"] if run["label"].startswith("steps"))
    assert slow >= fast


def test_the_parts_never_need_more_than_the_whole(planned):
    one = planned["plans"][0]
    assert one["over_time"] is None  # ten seconds are one part
    assert one["whole"] is None  # all of it was searched on


def test_offline_work_fits_beside(planned):
    offline = planned["plans"][0]["offline"]
    assert offline["tokens_per_second"] > 0
    assert offline["backlog"]["done_seconds"] > 0
    assert offline["tokens_done"] == sorted(offline["tokens_done"])


def test_the_text_and_the_page_say_the_same(planned):
    said, shown = text(planned), page(planned)
    assert f"{planned['plans'][0]['replicas']} replicas" in said
    assert "cheapest: a100-opt-13b" in said
    assert shown.count("<svg") >= 4
    assert not re.search(r'(src|href)="', shown)  # one file, nothing fetched
    assert "nan" not in shown


def test_targets_that_no_machine_meets_are_refused_with_the_reason():
    found = plan(question(aim=Aim(400 * MS, 5 * MS)), 1, nobody)
    assert found["best"] is None
    assert "on an idle replica 0.0042 of the requests meet both" in text(found)
    assert "infeasible" in page(found)


def test_a_prompt_that_the_cache_holds_keeps_a_target_that_the_whole_one_would_miss():
    """3,000 tokens take far longer than 150 ms: only what follows the common beginning is computed."""
    asks = [TraceRequest(i * NANOSECONDS // 2, 3016, 4, block_ids=tuple(range(187))) for i in range(100)]
    asked = question(trace=Trace("shared", asks, 16), aim=Aim(150 * MS, 35 * MS, 0.95))
    kinds = [replace(asked.kinds[0], kv_tokens=8000)]
    [one] = plan(replace(asked, kinds=kinds), 1, nobody)["plans"]
    assert one["feasible"]
    assert one["reachable_attainment"] == 1
    bare = Trace("alone", [r._replace(block_ids=()) for r in asks])
    [one] = plan(replace(asked, kinds=kinds, trace=bare), 1, nobody)["plans"]
    assert one["reachable_attainment"] == 0


def test_too_few_replicas_allowed_are_told():
    found = plan(question(most_replicas=1), 1, nobody)
    assert found["best"] is None
    assert "1 replica reaches" in text(found)


def test_two_plans_are_equal(planned):
    again = plan(question(backlog=lengths((60, 20), tokens=5e4)), 1, nobody)

    def bare(shown: str) -> str:
        return re.sub(r"'simulation_wall_seconds': [^,]+,", "", shown)

    assert bare(repr(again)) == bare(repr(planned))


def test_a_trace_all_at_once_is_refused():
    with pytest.raises(ConfigError, match="all requests arrive at once"):
        plan(question(trace=with_arrivals(question().trace, AllAtOnce())), 1, nobody)


def test_a_backlog_beyond_the_trace_takes_more_rounds_of_it():
    offline = {"until_seconds": [10.0, 20.0], "tokens_done": [100.0, 400.0]}
    assert backlog_done(offline, 250.0)["done_seconds"] == 15.0
    assert backlog_done(offline, 900.0)["done_seconds"] == 50.0
    assert backlog_done(offline, 0.0) is None


@pytest.mark.parametrize(("check_requests", "said"), [(300, "standard error"), (600, "all of it simulated")])
def test_a_long_trace_is_searched_where_it_is_busiest_and_checked_on_the_whole(check_requests, said):
    trace = with_arrivals(synthetic((60.0, 40.0), 600), Poisson(4.0))
    found = plan(question(trace=trace, max_requests=100, check_requests=check_requests), 1, nobody)
    [one] = found["plans"]
    assert found["simulated_requests"] == 100
    assert len(one["over_time"]["replicas"]) == 3
    assert one["over_time"]["peak"] <= one["replicas"]
    assert one["whole"]["complete"] == (check_requests == 600)
    assert one["whole"]["simulated_requests"] == check_requests
    assert one["whole"]["attainment"] >= 0.95
    assert said in text(found)
    assert "searched on the busiest 100 requests" in text(found)
    scaling = one["scaling"]
    assert scaling["complete"] == (check_requests == 600)
    assert scaling["simulated_requests"] == check_requests
    assert scaling["stretches"] == len(scaling["by_stretch"]) == 3
    assert scaling["replicas_mean"] <= scaling["replicas_peak"]
    assert "where it is busiest" in text(found)
    assert "replicas, the busiest stretch" in page(found)


def test_a_trace_is_planned_from_its_first_request_on(planned):
    """An excerpt that begins after ten hours."""
    early = question().trace
    late = [r._replace(arrival_ns=r.arrival_ns + 36_000 * NANOSECONDS) for r in early.requests]
    moved = question(trace=Trace(early.name, late), backlog=lengths((60, 20), tokens=5e4))
    found = plan(moved, 1, nobody)
    assert found["span_seconds"] == planned["span_seconds"]
    assert found["plans"][0]["over_time"] == planned["plans"][0]["over_time"]
    assert found["plans"][0]["offline"] == planned["plans"][0]["offline"]
    assert "taken from its first request on, which arrives at 36000 s" in text(found)


def bursty() -> Question:
    """The busiest 100 in a row come evenly; the others 60 at once, once a minute."""
    evenly = [i * NANOSECONDS // 8 for i in range(200)]
    bursts = [(60 + 60 * k) * NANOSECONDS for k in range(10) for _ in range(60)]
    requests = [TraceRequest(ns, 60, 40) for ns in evenly + bursts]
    return question(trace=Trace("bursty", requests), max_requests=100, check_requests=800)


def test_what_misses_over_the_whole_trace_is_no_answer():
    found = plan(bursty(), 1, nobody)
    [one] = found["plans"]
    assert one["whole"]["attainment"] < 0.95 <= one["run"]["online"]["slo_attainment"]
    assert found["best"] is None
    assert not one["feasible"]
    said = text(found)
    assert "INFEASIBLE: 1 replica holds the SLO where the trace is busiest, and the SLO is NOT held" in said
    assert "search on more of the trace (--max-requests)" in said
    assert said.endswith("no profile holds the SLO over the whole trace")
    assert "infeasible: 1 replica holds" in page(found)


@pytest.mark.parametrize("most", [2, 4])
def test_a_few_requests_to_search_on_are_no_crash(most: int):
    trace = with_arrivals(synthetic((60.0, 40.0), 100), Poisson(0.5))
    asked = question(trace=trace, max_requests=most, check_requests=10, samples=0)
    assert plan(asked, 1, nobody)["simulated_requests"] == most


def test_a_day_that_brings_more_than_is_done_is_told():
    day = replace(lengths((60, 20), tokens=1e10), daily=True)
    found = plan(question(backlog=day), 1, nobody)
    offline = found["plans"][0]["offline"]
    times = offline["backlog"]["days_of_work"]
    assert times == pytest.approx(1e10 / offline["tokens_per_day"])
    said = text(found)
    assert "1e+10 tokens come each day, more than is done: what waits grows without end" in said
    assert f"up to about {times:.3g} times the replicas" in said
    assert "for nothing" not in said
    assert "is done after" not in said


def test_a_backlog_that_finds_no_room_is_never_done():
    done = backlog_done({"until_seconds": [10.0], "tokens_done": [0.0]}, 250.0)
    assert done["done_seconds"] is None
