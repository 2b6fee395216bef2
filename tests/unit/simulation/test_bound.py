"""No policy beats the bound, whatever the workload; and it is no looser than it need be on small ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from brim.core.errors import ConfigError
from brim.profiles.unevenness import Unevenness
from brim.simulation.bound import bound
from brim.simulation.results import Figures
from brim.simulation.run import Setup
from brim.simulation.targets import Targets
from brim.workloads.trace import Trace
from tests.helpers import MS
from tests.unit.simulation.scenarios import asked, machine, result, setup, trace
from tests.unit.simulation.workloads import TRACES, setups

HIGHER_IS_BETTER = (
    "throughput_requests_per_second",
    "output_tokens_per_second",
    "goodput_requests_per_second",
    "slo_attainment",
)
LOWER_IS_BETTER = (
    "ttft_seconds",
    "tpot_seconds",
    "e2e_seconds",
    "normalized_latency_seconds_per_token",
)


def never_beaten(limit: Figures, row: Figures) -> None:
    assert limit["duration_seconds"] <= row["duration_seconds"]
    for task_class in ("online", "offline"):
        best, own = limit[task_class], row[task_class]
        assert (best is None) == (own is None)
        if own is None:
            continue
        assert [best[n] for n in ("requests", "finished", "refused", "cut")] == [
            own[n] for n in ("requests", "finished", "refused", "cut")
        ]
        for name in HIGHER_IS_BETTER:
            assert own[name] is None or best[name] is None or own[name] <= best[name], name
        for name in LOWER_IS_BETTER:
            assert own[name]["mean"] is None or best[name]["mean"] <= own[name]["mean"], name


@settings(max_examples=100, deadline=None)
@given(TRACES, setups(depths=(1, 2)))
def test_no_policy_beats_it(requests: Trace, on: Setup) -> None:
    never_beaten(bound(requests, on), result(requests, on))


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(TRACES, setups(depths=(1, 2)))
def test_no_policy_beats_it_on_many_workloads(requests: Trace, on: Setup) -> None:
    never_beaten(bound(requests, on), result(requests, on))


def test_a_request_alone_reaches_it() -> None:
    alone, on = trace(asked(3, 5, 4)), setup(targets=Targets(e2e_ns=48 * MS))
    limit, row = bound(alone, on), result(alone, on)
    for name in LOWER_IS_BETTER:
        assert limit["online"][name]["mean"] == pytest.approx(row["online"][name]["mean"], rel=1e-6)
    for name in HIGHER_IS_BETTER:
        assert limit["online"][name] == pytest.approx(row["online"][name], rel=1e-6)


def test_of_uneven_steps_each_counts_as_the_shortest() -> None:
    alone, quick = trace(asked(3, 5, 4)), Unevenness((0.0, 1.0), (0.6, 0.6))
    on = setup(machine(unevenness=quick))
    limit, row = bound(alone, on), result(alone, on)
    for name in LOWER_IS_BETTER:
        assert limit["online"][name]["mean"] == pytest.approx(row["online"][name]["mean"], rel=1e-6)
        assert limit["online"][name]["mean"] < bound(alone, setup())["online"][name]["mean"]


@pytest.mark.parametrize(
    ("settings", "slow"),
    [
        ({"max_num_seqs": 1}, "seats"),
        ({"num_blocks": 4, "max_model_len": 16}, "blocks"),
        ({"max_num_batched_tokens": 10}, "tokens"),
    ],
)
def test_every_resource_can_be_the_one_that_binds(settings: dict[str, Any], slow: str) -> None:
    many = trace(*(asked(0, 10, 6) for _ in range(10)))
    ample, scarce = (bound(many, setup(settings=changes)) for changes in ({}, settings))
    assert scarce["duration_seconds"] > 1.2 * ample["duration_seconds"], slow
    assert scarce["online"]["e2e_seconds"]["mean"] > ample["online"]["e2e_seconds"]["mean"]


def test_targets_that_nobody_can_meet_are_not_met_by_it() -> None:
    on = setup(targets=Targets(ttft_ns=14 * MS))
    assert bound(trace(asked(0, 5, 1), asked(0, 4, 1)), on)["online"]["slo_attainment"] == 0.5
    crowd = trace(*(asked(0, 5, 4) for _ in range(200)))
    assert bound(crowd, setup(targets=Targets(e2e_ns=100 * MS)))["online"]["slo_attainment"] < 0.2


def test_it_holds_for_whole_runs_only() -> None:
    with pytest.raises(ConfigError, match="whole runs"):
        bound(trace(asked(0, 5, 4)), setup(measure_from_ns=1))
