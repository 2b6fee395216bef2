"""Runs small enough to be worked out by hand: a step takes 10 ms and 1 ms for each token."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from brim.core.estimators.online_demand import OnlineDemand
from brim.core.kvcache.headroom import Headroom
from brim.core.policies.named import named
from brim.core.request import SLO
from brim.simulation.results import figures
from brim.simulation.targets import Targets
from tests.helpers import MS, OFFLINE, ONLINE
from tests.unit.simulation.scenarios import (
    PS,
    asked,
    machine,
    online,
    result,
    run,
    setup,
    step_time,
    trace,
)

ALONE = trace(asked(0, prompt=5, output=4))


@pytest.mark.parametrize("skip", [True, False])
def test_a_request_alone_takes_its_prompt_and_its_decodes(skip: bool) -> None:
    row = online(ALONE, setup(skip=skip))
    assert row["ttft_seconds"]["mean"] == 0.015
    assert row["itl_seconds"] == pytest.approx(dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), 0.011))
    assert row["tpot_seconds"]["p50"] == 0.011
    assert row["e2e_seconds"]["mean"] == pytest.approx(0.015 + 3 * 0.011)
    assert row["normalized_latency_seconds_per_token"]["p99"] == pytest.approx(0.048 / 4)
    assert (row["requests"], row["finished"], row["refused"]) == (1, 1, 0)


def test_the_context_makes_each_step_longer_than_the_one_before() -> None:
    on = setup(machine(step_time(per_context=1, per_pair=1)))
    row = online(ALONE, on)
    assert row["ttft_seconds"]["mean"] == (10 + 5 + 15) / 1000  # 15 pairs of 5 tokens
    assert row["e2e_seconds"]["mean"] == (30 + 17 + 18 + 19) / 1000  # the first decode attends to 6 tokens


def test_the_answer_ends_at_its_true_length_which_nobody_was_told() -> None:
    done, lines = run(ALONE)
    drawn = [json.loads(line)["drawn"][0][1] for line in lines if '"tokens"' in line]
    assert drawn == [0, 0, 0, 1]
    assert [line for line in lines if '"reason": "stop"' in line]
    assert "max_tokens" not in "".join(lines)
    assert done.setup.max_tokens(5) == 95  # all that the model's length leaves


def test_what_users_ask_for_ends_longer_answers() -> None:
    row = online(ALONE, setup(max_output_tokens=2))
    assert row["e2e_seconds"]["mean"] == pytest.approx(0.026)


def test_an_arrival_inside_a_step_is_told_when_the_step_ends() -> None:
    """Told at 26, the end of the first decode, it waits 6 ms; its prompt of 2 runs beside one decode."""
    both = trace(asked(0, 5, 4), asked(20, 2, 1))
    for skip in (True, False):
        done, lines = run(both, setup(skip=skip))
        arrived = [json.loads(line)["now_ns"] for line in lines if '"arrived"' in line]
        assert arrived == [0, 26 * MS]
        assert done.by_class[ONLINE].ttft_seconds.percentiles([0, 1]) == [0.015, 0.006 + 0.013]


def test_only_prompts_and_ends_are_scheduled_where_quiet_stretches_are_skipped() -> None:
    """Who has come or gone since is no reason to take a step by itself."""
    done, _ = run(trace(asked(0, 5, 20), asked(50, 5, 20)))
    assert done.end.totals.steps == 25
    assert done.schedule_calls == 2 + 2 + 1  # the last finds nothing to run


def test_those_who_arrive_together_are_told_together() -> None:
    _, lines = run(trace(asked(0, 3, 1), asked(0, 4, 1)))
    assert [json.loads(line)["now_ns"] for line in lines if '"tokens"' in line] == [17 * MS]


def test_an_idle_machine_waits_for_the_next_arrival() -> None:
    row = result(trace(asked(0, 5, 1), asked(100, 5, 1)))
    assert row["duration_seconds"] == 0.115
    assert row["compute"]["busy_share"] == pytest.approx(30 / 115)
    assert row["compute"]["forward_over_tfs_mean"] == 5 / 8
    assert row["steps"] == 2


def test_the_kv_cache_is_averaged_over_time() -> None:
    """8 tokens in 2 of 100 blocks for 18 ms, of 180 in all."""
    row = result(trace(asked(0, 8, 1), asked(162, 8, 1)))
    assert row["kv"]["written_mean"] == pytest.approx(0.02 * 36 / 180)
    assert row["kv"] == {"written_mean": row["kv"]["written_mean"], "promised_mean": 0.004, "lent_mean": 0}


def test_a_request_that_can_never_run_is_refused_and_misses_its_target() -> None:
    on = setup(targets=Targets(e2e_ns=48 * MS))
    row = online(trace(asked(0, 5, 4), asked(60, 100, 4), asked(70, 99, 1)), on)
    assert (row["requests"], row["finished"], row["refused"]) == (3, 2, 1)
    assert row["slo_attainment"] == pytest.approx(1 / 3)
    assert row["goodput_requests_per_second"] == pytest.approx(1 / 0.189)  # the long prompt takes two steps
    assert row["throughput_requests_per_second"] == pytest.approx(
        2 / 0.189
    )  # the long prompt takes two steps


def test_nothing_measured_is_null() -> None:
    row = result(trace(asked(0, 5, 1)))
    assert row["offline"] is None
    assert row["online"]["slo_attainment"] is row["online"]["goodput_requests_per_second"] is None
    assert row["online"]["prefix_hit_rate"] is None
    assert row["online"]["itl_seconds"] == dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))


def test_offline_requests_are_judged_by_their_deadlines() -> None:
    late, in_time = asked(0, 5, 4, OFFLINE, deadline_s=0.001), asked(0, 5, 4, OFFLINE, deadline_s=1)
    row = result(trace(late, in_time, asked(0, 5, 4, OFFLINE)), setup(targets=Targets(ttft_ns=1)))
    assert row["offline"]["slo_attainment"] == 0.5
    assert row["online"] is None


def test_the_target_of_a_scale_is_a_multiple_of_the_time_alone() -> None:
    targets = Targets(scale=2)
    assert targets.of(asked(0, 5, 4), machine()) == SLO(e2e_ns=2 * (15 + 4 * 11) * MS)
    with_context = machine(step_time(per_context=1))
    assert targets.of(asked(0, 5, 4), with_context) == SLO(e2e_ns=2 * (15 + 4 * (11 + 7)) * MS)


def test_an_answer_of_no_token_is_judged_like_the_one_token_that_it_gets() -> None:
    targets = Targets(scale=2)
    assert targets.of(asked(0, 5, 0), machine()) == targets.of(asked(0, 5, 1), machine())


def test_of_the_target_of_a_scale_the_scheduler_is_told_what_does_not_tell_the_length() -> None:
    told = [Targets(scale=2).told(asked(0, 5, output), machine()) for output in (4, 400)]
    assert told == [SLO(ttft_ns=30 * MS, tpot_ns=22 * MS)] * 2
    tighter = Targets(scale=2, ttft_ns=7 * MS, tpot_ns=9 * MS)
    assert tighter.told(asked(0, 5, 4), machine()) == SLO(ttft_ns=7 * MS, tpot_ns=9 * MS)
    assert Targets(e2e_ns=9).told(asked(0, 5, 4), machine()) == SLO(e2e_ns=9)
    assert Targets(scale=2).told(asked(0, 5, 4, OFFLINE), machine()) == SLO()


def test_the_target_of_a_scale_is_judged_though_its_parts_are_told() -> None:
    """Alone it takes 48 of 59 ms: its TTFT is over 0.82 of the prompt's time, the whole is not."""
    met = [online(ALONE, setup(targets=Targets(scale=scale)))["slo_attainment"] for scale in (0.8, 0.82)]
    assert met == [0, 1]


def test_the_host_takes_its_time_in_every_step() -> None:
    on = setup(machine(overhead_ps=2 * PS, per_sequence_ps=1 * PS))
    assert online(ALONE, on)["ttft_seconds"]["mean"] == 0.018
    assert online(ALONE, on)["itl_seconds"]["mean"] == 0.014


def test_at_depth_2_a_step_is_scheduled_while_another_runs() -> None:
    """An arrival at 5 is told at 15, when the second step is scheduled already: it runs in the third."""
    both = trace(asked(0, 5, 4), asked(5, 2, 1))
    first, second = (online(both, setup(depth=depth))["ttft_seconds"] for depth in (1, 2))
    assert first["p99"] > 0
    done, lines = run(both, setup(depth=2))
    assert done.by_class[ONLINE].ttft_seconds.percentiles([1]) == [(15 + 11 + 13 - 5) / 1000]
    assert second != first
    assert sum('"finished"' in line for line in lines) == 2


def test_a_window_counts_who_arrives_in_it_and_what_happens_in_it() -> None:
    three = trace(asked(0, 5, 1), asked(50, 5, 1), asked(100, 5, 1))
    row = result(three, setup(measure_from_ns=40 * MS, measure_until_ns=90 * MS))
    assert (row["duration_seconds"], row["steps"]) == (0.05, 1)
    assert row["online"]["requests"] == row["online"]["finished"] == 1
    assert row["online"]["throughput_requests_per_second"] == 20
    assert row["compute"]["busy_share"] == pytest.approx(15 / 50)


@pytest.mark.parametrize("skip", [True, False])
def test_a_run_that_is_stopped_counts_what_was_over_by_then(skip: bool) -> None:
    """11 ms a step: at 60 ms the second has drawn four tokens, and a sixth step is under way."""
    two = trace(asked(0, 1, 1), asked(10, 1, 50))
    row = result(two, setup(stop_ns=60 * MS, skip=skip))
    assert (row["online"]["requests"], row["online"]["finished"]) == (2, 1)
    assert row["steps"] == 6
    assert row["duration_seconds"] == 0.055


def test_two_runs_give_the_same_bytes() -> None:
    requests = trace(*(asked(7 * i, 3 + i % 5, 1 + i % 7) for i in range(30)))
    (one, first), (two, second) = run(requests), run(requests)
    assert first == second
    assert json.dumps(figures(one)) == json.dumps(figures(two))


def test_a_preemption_is_counted_and_recomputed() -> None:
    scarce = setup(settings={"num_blocks": 7, "max_model_len": 28})
    row = result(trace(asked(0, 11, 9), asked(1, 11, 9)), scarce)
    assert row["preemptions"] == 1
    assert row["allocation_failures"] >= 1
    assert row["online"]["recomputed_tokens"] > 0
    assert row["online"]["finished"] == 2


def test_prefixes_that_the_trace_calls_equal_are_found() -> None:
    same = [asked(100 * i, 12, 1, block_ids=[7, 8]) for i in range(2)]
    other = asked(300, 12, 1, block_ids=[7, 9])
    caching = setup(settings={"enable_prefix_caching": True})
    row = online(trace(*same, other, block_tokens=8), caching)
    assert (
        row["prefix_hit_rate"] == (0 + 8 + 8) / 36
    )  # the third block of 4 holds the last token: it has to run
    without = online(trace(*same, other, block_tokens=8), replace(caching, config=setup().config))
    assert without["prefix_hit_rate"] is None


def test_what_online_requests_hold_is_seen_in_skipped_steps_too() -> None:
    """An answer that grows for 600 ms, seen in windows of 20 ms."""
    forecasts = []
    for skip in (True, False):
        on = setup(settings={"policy": "echo"}, skip=skip)
        demand = OnlineDemand(window_seconds=0.08, num_sub_windows=4)
        policy = replace(named(on.config), headroom=Headroom(100, demand))
        result(trace(asked(0, 5, 40), asked(430, 5, 1)), replace(on, policy=policy))
        forecasts.append((demand.forecast_blocks, demand.coverage))
    assert forecasts[0] == forecasts[1]
    assert forecasts[0][0] > 0
