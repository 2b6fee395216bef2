"""Answers that are due as a whole, some of them longer than expected, beside a backlog without end."""

from __future__ import annotations

import random

import pytest

from brim.core.estimators.step_time import StepTime
from brim.core.policies.named import named
from brim.core.request import TaskClass
from brim.simulation.machine import Machine
from brim.simulation.results import figures
from brim.simulation.run import Setup, simulate
from brim.simulation.targets import Targets
from brim.workloads.trace import Trace, TraceRequest
from tests.helpers import MS, OFFLINE, config

STEP_TIME = StepTime(10 * 10**9, 10**7, (), 0, 10**8, 0)  # 10 ms, 0.01 ms a token, 0.1 ms a decode


def in_time(policy: str, e2e_ms: int, num_offline: int) -> float:
    draw = random.Random(0)
    chats = [TraceRequest(i * 500 * MS, 50, min(int(draw.expovariate(1 / 100)) + 1, 400)) for i in range(60)]
    backlog = [TraceRequest(0, 200, 300, OFFLINE)] * num_offline
    large = {"num_blocks": 9999, "max_model_len": 9999, "max_num_batched_tokens": 512, "max_num_seqs": 256}
    settings = config(policy=policy, **large)
    machine = Machine(STEP_TIME, 9999)
    setup = Setup(settings, machine, named(settings, step_time=STEP_TIME), Targets(e2e_ns=e2e_ms * MS))
    run = simulate(Trace("whole answers", [*backlog, *chats]), setup)
    share: float = figures(run)[TaskClass.ONLINE]["slo_attainment"]
    return share


@pytest.mark.parametrize("policy", ["brim", "echo"])
def test_as_many_are_in_time_as_without_a_backlog(policy: str) -> None:
    alone, beside = (in_time(policy, 6_000, num_offline) for num_offline in (0, 400))
    assert alone == 1
    assert beside >= 0.98
