"""A decision leaves no trace: the next one on the same board is the same, whatever was asked in between."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.decide import decide
from brim.core.decision import Decision
from brim.core.estimators.step_time import StepTime
from brim.core.policies.named import named
from brim.core.request import SLO
from brim.core.scheduler import Scheduler
from tests.helpers import MS, OFFLINE, ONLINE, Host, config, request

HOUR_NS = 3600 * 10**9
SLOW = StepTime(10**10, 10**9, (), 0, 0, 0)


def decided(scheduler: Scheduler, now_ns: int) -> Decision:
    return decide(scheduler.policy, scheduler._board, now_ns)


def an_old_backlog() -> Scheduler:
    """One seat, and a request of low priority that has waited for longer."""
    limits = config(policy="echo", num_blocks=400, max_num_batched_tokens=64, max_num_seqs=1)
    scheduler = Scheduler(limits, named(limits, step_time=SLOW))
    for name, prompt, priority in (("old", 100, 5), ("urgent", 101, 0)):
        scheduler.add(request(name, prompt, 4, task_class=OFFLINE, priority=priority), 0)
    return scheduler


def test_an_earlier_look_gives_nobody_its_turn() -> None:
    looked_at, other = an_old_backlog(), an_old_backlog()
    decided(looked_at, 0)
    first, second = (
        [v.request.request_id for v in decided(s, 2 * HOUR_NS).admit] for s in (looked_at, other)
    )
    assert first == second == ["urgent"]


def test_whoever_was_the_oldest_in_earlier_steps_has_its_turn() -> None:
    scheduler = an_old_backlog()
    scheduler.add(request("chat", 8, 50), 0)  # has the seat
    scheduler.schedule(0)
    scheduler.abort("chat", 0)
    assert [v.request.request_id for v in decided(scheduler, 2 * HOUR_NS).admit] == ["old"]


@pytest.mark.parametrize("policy", ["brim", "echo", "hygen", "econoserve"])
@settings(max_examples=15, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_decisions_on_one_board_are_equal(policy: str, rng: Random) -> None:
    limits = config(policy=policy, num_blocks=24, max_num_batched_tokens=24, max_num_seqs=4, max_model_len=64)
    host = Host(limits)
    for number in range(30):
        prompt = [rng.choice([1, 2])] * rng.randint(1, 40)
        kind = rng.choice([ONLINE, OFFLINE])
        slo = SLO(ttft_ns=rng.randint(1, 100) * MS) if kind is ONLINE else SLO()
        host.add(request(f"r{number}", prompt, rng.randint(1, 8), task_class=kind, slo=slo))
        scheduler, now_ns = host.scheduler, host.now_ns
        first = decided(scheduler, now_ns)
        for other_ns in (0, now_ns + 2 * HOUR_NS, now_ns):
            last = decided(scheduler, other_ns)
        assert last == first
        host.step()
