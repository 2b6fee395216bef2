"""What a policy knows of itself: only what it has, and the same as its own books say."""

from __future__ import annotations

import pytest

from brim.core.figures import figures
from brim.core.policies.named import NAMED
from brim.core.scheduler import Scheduler
from tests.helpers import OFFLINE, Host, config, request

STEP_TIME = {"step_time_error_p50", "step_time_error_p95", "step_time_bias", "step_time_margin"}
HEADROOM = {"online_demand_forecast_blocks", "online_demand_coverage", "offline_headroom_blocks"}
POOL = {"offline_requests_pooled"}
ALL = STEP_TIME | POOL | HEADROOM
HAVE = {"bs-e": STEP_TIME, "bs-e-s": STEP_TIME | POOL, "hygen": STEP_TIME | POOL, "echo": ALL, "brim": ALL}


def mixed(policy: str) -> Host:
    """One online and one offline request under way, a second offline one waiting for a seat."""
    host = Host(config(policy=policy, num_blocks=40, max_num_seqs=2), depth=2)
    host.add(request("a", 8, max_tokens=9))
    host.add(request("b", 8, max_tokens=9, task_class=OFFLINE), request("c", 8, task_class=OFFLINE))
    for _ in range(5):
        host.step()
    return host


@pytest.mark.parametrize("policy", NAMED)
def test_a_policy_tells_what_it_has(policy: str) -> None:
    assert set(figures(mixed(policy).scheduler)) == HAVE.get(policy, set())


def test_before_the_first_step_nothing_is_known_of_steps() -> None:
    assert not STEP_TIME & set(figures(Scheduler(config(policy="echo"))))


def test_the_figures_are_those_of_the_books() -> None:
    scheduler = mixed("echo").scheduler
    told, kv = figures(scheduler), scheduler.kv
    assert told["offline_requests_pooled"] == 1
    assert 0 < kv.online_blocks < kv.used_blocks
    assert told["offline_headroom_blocks"] == kv.num_blocks - kv.used_blocks  # no peak has passed yet
    assert told["online_demand_coverage"] == 1
