"""What the rules of a running scheduler know of themselves, as plain figures."""

from __future__ import annotations

from typing import Any

from brim.core.base_scheduler import BaseScheduler


def figures(scheduler: BaseScheduler[Any]) -> dict[str, float]:
    """By name, only those that its policy has. May be called while another thread runs the scheduler.

    `step_time_error_p50`, `step_time_error_p95`, `step_time_bias`: of predicted steps, as shares of what they
    took, the bias above 0 where they were shorter. `step_time_margin`: the share by which decisions take
    steps to be longer than predicted, so that few are later than that. `online_demand_forecast_blocks`, and
    the share of the time in which that was enough, `online_demand_coverage`. `offline_headroom_blocks`: how
    many more offline requests may take. `offline_requests_pooled`: those that wait in the pool.
    """
    return {**_step_time(scheduler), **_headroom(scheduler), **_pool(scheduler)}


def _step_time(scheduler: BaseScheduler[Any]) -> dict[str, float]:
    timing = scheduler.policy.timing
    if timing is None or not timing.steps.error.steps:
        return {}
    found = timing.steps.error.figures()
    return {
        "step_time_error_p50": found["p50"],
        "step_time_error_p95": found["p95"],
        "step_time_bias": found["bias"],
        "step_time_margin": timing.steps.guard.share,
    }


def _headroom(scheduler: BaseScheduler[Any]) -> dict[str, float]:
    headroom, kv = scheduler.policy.headroom, scheduler.kv
    if headroom is None:
        return {}
    online_blocks = kv.online_blocks
    offline_blocks = kv.used_blocks - online_blocks
    return {
        "online_demand_forecast_blocks": headroom.demand.forecast_blocks,
        "online_demand_coverage": headroom.demand.coverage,
        "offline_headroom_blocks": max(headroom.offline_limit(online_blocks) - offline_blocks, 0),
    }


def _pool(scheduler: BaseScheduler[Any]) -> dict[str, float]:
    pool = scheduler.queues.pool
    return {} if pool is None else {"offline_requests_pooled": len(pool)}
