"""Disaggregation, scaling and failure, each against a case worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.errors import ConfigError
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.setup import (
    ClusterSetup,
    Disaggregation,
    Failure,
    Scaling,
    decode_pool,
    prefill_pool,
)
from brim.simulation.run import Setup
from brim.workloads.trace import NANOSECONDS, Trace
from tests.helpers import MS, ONLINE
from tests.unit.simulation.cluster.scenarios import cluster, result, run
from tests.unit.simulation.scenarios import asked, machine, setup, step_time, trace
from tests.unit.simulation.workloads import TRACES, setups


def disaggregated(
    prefill: int = 1, decode: int = 1, on: Setup | None = None, transfer_ms: float = 5.0, **changes: object
) -> ClusterSetup:
    """A token takes 1 ms / 4 to move, on top of `transfer_ms`."""
    base = cluster(1, on)
    moved = Disaggregation(decode_pool(base.serving, decode), 1, 4 * 1000.0, round(transfer_ms * MS))
    return replace(base, serving=prefill_pool(base.serving, prefill), disaggregation=moved, **changes)


# ---- disaggregation ------------------------------------------------------------------------------------


def test_the_kv_of_a_prompt_moves_once_and_the_answer_goes_on():
    """Prompt of 8: first token at 10 + 8 = 18. The KV moves for 5 + 2 = 7: 25. Two decodes of 10 + 1: 47."""
    online = result(trace(asked(0, 8, 3)), disaggregated())[ONLINE]
    assert online["ttft_seconds"]["mean"] == pytest.approx(0.018)
    assert online["e2e_seconds"]["mean"] == pytest.approx(0.047)
    assert online["tpot_seconds"]["mean"] == pytest.approx((0.047 - 0.018) / 2)
    assert online["output_tokens"] == 3


def test_transfers_of_a_replica_go_one_after_the_other():
    """Two prompts of 8 in one step of 10 + 16 = 26, moved at 33 and 40. The first decodes 33-44-55.

    The second joins at 44: a step of two takes 12, to 56, and its last of one takes 11, to 67.
    """
    found = run(trace(asked(0, 8, 3), asked(0, 8, 3)), disaggregated()).by_class[ONLINE]
    assert found.e2e_seconds.sum == pytest.approx(0.056 + 0.067)


def test_a_single_token_never_moves():
    found = result(trace(asked(0, 8, 1)), disaggregated())
    assert found[ONLINE]["e2e_seconds"]["mean"] == pytest.approx(0.018)
    assert found["replicas_mean"] == 2


def test_prompts_never_delay_answers_of_others():
    """Alone every decode takes 11 ms, whatever prompts come meanwhile."""
    long_ones = [asked(30 + 20 * i, 60, 1) for i in range(5)]
    itl = result(trace(asked(0, 8, 20), *long_ones), disaggregated())[ONLINE]["itl_seconds"]
    assert itl["p90"] == pytest.approx(0.011, rel=0.011)


# ---- failure -------------------------------------------------------------------------------------------


def test_what_a_failed_replica_held_goes_on_elsewhere():
    """Tokens at 14, 25, 36; gone at 40. The other computes 4 + 3 tokens by 57, and two more."""
    on = cluster(2, failures=[Failure(0, 40 * MS)])
    found = run(trace(asked(0, 4, 6)), on)
    metrics = found.by_class[ONLINE]
    assert metrics.ttft_seconds.sum == pytest.approx(0.014)
    assert metrics.e2e_seconds.sum == pytest.approx(0.057 + 2 * 0.011)
    assert (metrics.arrived, metrics.ended_well, metrics.output_tokens) == (1, 1, 6)
    assert metrics.itl_seconds.count == 5


def test_requests_wait_for_the_only_replica_to_come_back():
    """Gone at 20, back at 120: the prompt and its first token are computed again, 10 + 5."""
    found = run(trace(asked(0, 4, 2), asked(50, 4, 1)), cluster(1, failures=[Failure(0, 20 * MS, 100 * MS)]))
    metrics = found.by_class[ONLINE]
    assert metrics.ended_well == 2
    assert metrics.e2e_seconds.sum == pytest.approx(0.139 + 0.139 - 0.050)
    assert found.notes[-1].paid_ns == 20 * MS + (139 - 20) * MS


def test_without_another_replica_the_requests_are_told_of():
    found = run(trace(asked(0, 4, 2)), cluster(1, failures=[Failure(0, 5 * MS)]))
    assert found.unserved == 1


def test_a_prompt_waits_for_the_only_decode_replica_to_come_back():
    """Its KV is there at 25; the decode replica is back at 105, and decodes for 11."""
    found = run(trace(asked(0, 8, 2)), disaggregated(failures=[Failure(1, 5 * MS, 100 * MS)]))
    assert found.by_class[ONLINE].e2e_seconds.sum == pytest.approx(0.116)
    for_good = run(trace(asked(0, 8, 2)), disaggregated(failures=[Failure(1, 5 * MS)]))
    assert for_good.unserved == 1


FAILURES = st.lists(
    st.builds(Failure, st.integers(0, 2), st.integers(1, 400 * MS), st.integers(1, 100 * MS)), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(TRACES, setups(), FAILURES, st.booleans())
def test_failures_lose_no_request_and_no_token(
    requests: Trace, on: Setup, failures: list[Failure], split: bool
):
    many = disaggregated(2, 1, on, failures=failures) if split else cluster(3, on, failures=failures)
    calm = replace(many, failures=())
    stormy, quiet = run(requests, many), run(requests, calm)
    for task_class in stormy.by_class:
        ours, theirs = stormy.by_class[task_class], quiet.by_class[task_class]
        assert (ours.arrived, ours.ended_well) == (theirs.arrived, theirs.ended_well)
        assert ours.output_tokens == theirs.output_tokens
        assert ours.ttft_seconds.count == theirs.ttft_seconds.count
        assert ours.itl_seconds.count == theirs.itl_seconds.count
    assert figures(run(requests, many)) == figures(stormy)


# ---- scaling -------------------------------------------------------------------------------------------

SLOW = setup(machine(step_time(100, per_token=0)))


def test_a_replica_serves_after_its_start_up_and_leaves_when_few_were_enough():
    """Four requests at 0 with a target of 2: a second replica is wanted at 1 s and serves from 3 s on.

    With the fifth a third is wanted at 4 s, and given up at 5 s before it serves. All is over at 6 s.
    """
    scaling = Scaling(1, 4, 2.0, startup_ns=2 * NANOSECONDS, interval_ns=NANOSECONDS, scale_down_after_ns=0)
    four, late = [asked(0, 4, 60) for _ in range(4)], asked(3500, 4, 10)
    found = run(trace(*four, late), cluster(1, SLOW, scaling=scaling, window_ns=NANOSECONDS))
    up = [note.replicas_up for note in found.notes]
    assert up == [1, 1, 2, 2, 2, 2, 2]  # the last at the end
    assert found.notes[-1].paid_ns == (6 + 5 + 1) * NANOSECONDS
    assert found.by_class[ONLINE].ended_well == 5


def test_scaling_down_waits_for_the_window_and_for_the_last_request():
    scaling = Scaling(1, 2, 1.0, startup_ns=0, interval_ns=NANOSECONDS, scale_down_after_ns=4 * NANOSECONDS)
    requests = trace(asked(0, 4, 20), asked(0, 4, 20), asked(12_000, 4, 1))
    found = run(requests, cluster(1, SLOW, scaling=scaling, window_ns=NANOSECONDS))
    up = [note.replicas_up for note in found.notes]
    assert up[1:4] == [2, 2, 2]
    assert up[8] == 1


def test_nobody_is_scaled_below_one():
    with pytest.raises(ConfigError, match="1 or more replicas"):
        Scaling(0, 2, 1.0)
    with pytest.raises(ConfigError, match="give 1 to 2"):
        Scaling(1, 2, 1.0, at_first=3)


def test_those_up_at_first_are_kept_as_if_they_had_been_wanted():
    """Three for two requests under a target of 2: one is enough, and after 4 s only who is idle is gone."""
    scaling = Scaling(1, 3, 2.0, 0, NANOSECONDS, 4 * NANOSECONDS, at_first=3)
    found = run(
        trace(asked(0, 4, 60), asked(0, 4, 60)), cluster(1, SLOW, scaling=scaling, window_ns=NANOSECONDS)
    )
    assert [note.replicas_up for note in found.notes][:6] == [3, 3, 3, 3, 2, 2]


@settings(max_examples=40, deadline=None)
@given(TRACES, setups(), st.floats(0.5, 4), st.integers(0, 200))
def test_scaling_loses_nothing(requests: Trace, on: Setup, target: float, startup_ms: int):
    scaling = Scaling(1, 3, target, startup_ms * MS, 20 * MS, 30 * MS)
    found = run(requests, cluster(1, on, scaling=scaling, offline_depth=1))
    assert sum(m.finished.total() for m in found.by_class.values()) == len(requests)
    assert found.notes[-1].paid_ns <= 3 * found.notes[-1].now_ns
