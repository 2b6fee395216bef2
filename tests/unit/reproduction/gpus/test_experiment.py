"""A small set-up: the least holds, one fewer does not, and the tables say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brim.core.errors import ConfigError
from brim.profiles.loader import load
from brim.reproduction.gpus.benches import BENCHES, Bench, Replicas
from brim.reproduction.gpus.experiment import DISTSERVE, Goals, Least, _run, reproduce
from brim.reproduction.gpus.report import text
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.run import simulate_cluster

SMALL = Bench("small", "a100-opt-13b", 0.5, 0.06, 6.0, 3200, 200.0, 40.0)
SECONDS, GOAL = 20.0, 0.9


def attained(setup: object) -> float:
    found = figures(simulate_cluster(SMALL.trace(SMALL.rate, SECONDS, 0), setup))  # type: ignore[arg-type]
    return float(found["online"]["slo_attainment"])


def test_the_least_replicas_hold_and_one_fewer_does_not():
    found = Least(SMALL, "vllm", GOAL, SECONDS, 0, 8).do()
    [count] = found["replicas"]
    assert found["gpus"] == count
    assert found["attainment"] == attained(SMALL.together("vllm", Replicas(SMALL.profile, count))) >= GOAL
    if count > 1:
        assert attained(SMALL.together("vllm", Replicas(SMALL.profile, count - 1))) < GOAL


def test_distserve_needs_both_sides():
    found = Least(SMALL, DISTSERVE, GOAL, SECONDS, 0, 8).do()
    sides = [Replicas(SMALL.profile, count) for count in found["replicas"]]
    assert found["gpus"] == sum(found["replicas"]) >= 2
    assert attained(SMALL.apart(*sides)) >= GOAL


def test_more_gpus_a_replica_where_fewer_can_not_be_in_time():
    """A prompt of 512 tokens takes 95 ms on one GPU and 74 ms on two."""
    quick = replace(SMALL, ttft_seconds=0.06, rate=1.0)
    wider = replace(quick, wider=("a100-opt-13b-tp2",))
    for policy in ("vllm", DISTSERVE):
        narrow, free = (Least(bench, policy, GOAL, SECONDS, 0, 8).do() for bench in (quick, wider))
        assert narrow["gpus"] is None
        assert free["gpus_each"] == ([2] if policy == "vllm" else [2, 1])


def test_a_target_below_one_step_is_told_as_not_held():
    impossible = replace(SMALL, tpot_seconds=0.001)
    assert Least(impossible, "vllm", GOAL, 2.0, 0, 8).do()["gpus"] is None


def test_apart_is_served_from_the_same_caches_and_gpus():
    for bench in BENCHES:
        both = bench.apart(*[Replicas(bench.profile, 1)] * 2)
        assert both.disaggregation is not None
        assert both.disaggregation.decode.config.num_blocks == both.serving.config.num_blocks
        assert both.serving.gpus == load(bench.profile).tensor_parallel


def test_every_row_stands_in_the_tables(monkeypatch: pytest.MonkeyPatch):
    for module in ("experiment", "report"):
        monkeypatch.setattr(f"brim.reproduction.gpus.{module}.POLICIES", ("vllm", "econoserve"))
    monkeypatch.setattr("brim.reproduction.gpus.experiment.BENCHES", (SMALL,))
    monkeypatch.setattr("brim.reproduction.gpus.experiment.PUBLISHED", {3.0: 0.55})
    [results] = reproduce(5.0, [GOAL], [], 0, 1, lambda what, total: lambda: None)
    told = text(results)
    assert all(f"| {policy} |" in told for policy in (DISTSERVE, "vllm", "econoserve"))
    assert "| 3 | 55% |" in told


def test_for_a_second_goal_nothing_is_run_again(monkeypatch: pytest.MonkeyPatch):
    ran: list[object] = []

    def counted(setup, *rest):
        ran.append(setup.serving.replicas)
        return _run(setup, *rest)

    monkeypatch.setattr("brim.reproduction.gpus.experiment._run", counted)
    for policy in ("vllm", DISTSERVE):
        ran.clear()
        both = Goals(SMALL, policy, [GOAL, GOAL], 5.0, 0).do()["least"]
        once = len(ran)
        assert both[0] == both[1] == Least(SMALL, policy, GOAL, 5.0, 0).do()
        assert len(ran) == 2 * once  # as many again for the one alone


def test_an_unknown_set_up_is_refused():
    with pytest.raises(ConfigError, match="no set-up has opt-7b"):
        next(reproduce(5.0, [GOAL], ["opt-7b"], 0, 1, lambda what, total: lambda: None))
