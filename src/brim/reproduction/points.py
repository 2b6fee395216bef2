"""One measurement: a scheduler on a bench under a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brim.core.config import SchedulerConfig
from brim.core.estimators.response_length import History, ResponseLength
from brim.core.events import Event, Finished
from brim.core.policies.filling import FixedBudget
from brim.core.policies.named import named
from brim.core.policy import Policy
from brim.reproduction.benches import DAY, Bench
from brim.simulation.bound import NAME as BOUND
from brim.simulation.bound import bound
from brim.simulation.lengths import Oracle, anchored
from brim.simulation.results import Figures, figures
from brim.simulation.run import Setup, simulate
from brim.simulation.targets import Targets
from brim.workloads.arrivals import AllAtOnce, Poisson
from brim.workloads.trace import NANOSECONDS, Trace, with_arrivals

WARM_UP = 1 / 6  # of the time in which requests arrive
RATES = ("throughput", "output_tokens_per_second", "goodput")  # the bound's are not of the same time
REALISTIC, ORACLE, HISTORY = "realistic", "oracle", "history"


@dataclass(frozen=True, slots=True)
class Row:
    """A scheduler as it is compared: its name, what predicts lengths, and what is set otherwise.

    `budget_tokens` overrides what a step may run at most; 0: as the policy has it.
    """

    policy: str
    lengths: str = ""  # "": it asks for no prediction
    settings: tuple[tuple[str, float], ...] = ()
    budget_tokens: int = 0
    engine: str = DAY

    @property
    def label(self) -> str:
        return f"{self.policy} ({self.lengths})" if self.lengths in (ORACLE, HISTORY) else self.policy


@dataclass(frozen=True, slots=True)
class Point:
    """`rate` requests/s for `seconds`, or, where it is 0, `count` requests at once.

    `group`, `value` and `load` (the rate over the saturation) say what it is measured for.
    """

    bench: Bench
    row: Row
    rate: float = 0.0
    seconds: float = 0.0
    count: int = 0
    seed: int = 0
    slo_scale: float = 2.0
    skip: bool = True
    data: Path | None = None
    group: str = field(default="")
    value: float | str = 0.0
    load: float = 0.0


def measure(point: Point) -> Figures:
    """The figures of a point, flat, after what it was measured for. An error tells the point."""
    try:
        return _measured(point)
    except Exception as exc:
        exc.add_note(f"while measuring {point}")
        raise


def _measured(point: Point) -> Figures:
    trace = _trace(point)
    setup = _setup(point, trace)
    row = point.row
    about = {
        "group": point.group,
        "value": point.value,
        "load": point.load,
        "label": row.label,
        "policy": row.policy,
        "lengths": row.lengths,
        "engine": row.engine,
        "rate": point.rate,
    }
    if row.policy == BOUND:
        return about | _flat(bound(trace, setup)) | dict.fromkeys(RATES)
    ends: list[int] = []
    run = simulate(trace, setup, observe=None if point.rate else _collect(ends))
    flat = about | _flat(figures(run)) | {"saturated_throughput": _steady_rate(ends)}
    if not point.skip:
        flat["scheduling_share_of_busy"] = run.schedule_wall_seconds / (run.end.totals.busy_ps / 1e12)
    return flat


def _trace(point: Point) -> Trace:
    count = point.count or max(round(point.rate * point.seconds), 1)
    lengths = point.bench.requests(count, point.seed, point.data)
    return with_arrivals(lengths, Poisson(point.rate, point.seed) if point.rate else AllAtOnce())


def _setup(point: Point, trace: Trace) -> Setup:
    """Figures are of those that arrive after the warm-up; whoever came is served to the end."""
    row, bench = point.row, point.bench
    is_bound = row.policy == BOUND
    config = bench.config("vllm" if is_bound else row.policy, **dict(row.settings))
    whole = is_bound or not point.rate
    return Setup(
        config,
        bench.machine(row.engine),
        None if is_bound else _policy(config, row, _predictor(row.lengths, trace, point.seed)),
        Targets(scale=point.slo_scale),
        bench.max_output,
        skip=point.skip,
        measure_from_ns=0 if whole else round(point.seconds * WARM_UP * NANOSECONDS),
        measure_until_ns=None if whole else round(point.seconds * NANOSECONDS),
    )


def _policy(config: SchedulerConfig, row: Row, lengths: ResponseLength) -> Policy:
    policy = named(config, lengths)
    if row.budget_tokens:
        policy = replace(policy, filling=FixedBudget(row.budget_tokens, policy.filling.prompts_alone))
    return policy


def _predictor(lengths: str, trace: Trace, seed: int) -> ResponseLength:
    truth = {str(i): max(r.output_tokens, 1) for i, r in enumerate(trace.requests)}
    match lengths:
        case "oracle":
            return Oracle(truth)
        case "realistic":
            return anchored(truth, seed)
        case _:
            return History()


def _collect(ends: list[int]) -> Callable[[list[Event]], None]:
    def observe(events: list[Event]) -> None:
        ends.extend(event.now_ns for event in events if isinstance(event, Finished))

    return observe


def _steady_rate(ends: list[int]) -> float | None:
    """Requests/s between the first and the last fifth of the ends; None where nobody collected them."""
    if len(ends) < 10:
        return None
    first, last = len(ends) // 5, len(ends) * 4 // 5
    return (last - first) / (ends[last] - ends[first]) * NANOSECONDS


def _flat(run: Figures) -> Figures:
    """Of the online class; latencies in seconds."""
    own: dict[str, Any] = run["online"]
    steps, seconds = run["steps"], run["duration_seconds"]
    rate = own["output_tokens_per_second"]
    served = (own["throughput_requests_per_second"] or 0) * seconds
    return {
        "requests": own["requests"],
        "refused": own["refused"],
        "throughput": own["throughput_requests_per_second"],
        "output_tokens_per_second": rate,
        "goodput": own["goodput_requests_per_second"],
        "attainment": own["slo_attainment"],
        "normalized_latency": own["normalized_latency_seconds_per_token"]["mean"],
        "jct": own["e2e_seconds"]["mean"],
        "jct_p99": own["e2e_seconds"]["p99"],
        "ttft": own["ttft_seconds"]["mean"],
        "ttft_p99": own["ttft_seconds"]["p99"],
        "itl_p99": own["itl_seconds"]["p99"],
        "tpot": own["tpot_seconds"]["mean"],
        "recomputed_tokens": own["recomputed_tokens"],
        "recomputed_per_request": own["recomputed_tokens"] / own["requests"],
        "mean_running": rate * seconds / steps if steps else None,
        "step_seconds": run["compute"]["busy_share"] and run["compute"]["busy_share"] * seconds / steps,
        **{f"kv_{name.removesuffix('_mean')}": share for name, share in run["kv"].items()},
        "forward_over_tfs": run["compute"]["forward_over_tfs_mean"],
        "busy": run["compute"]["busy_share"],
        "allocation_failures": run["allocation_failures"],
        "preemptions": run["preemptions"],
        "preemptions_per_request": run["preemptions"] / served if served and steps else None,
        "scheduling_seconds_per_step": run["scheduling_seconds_per_step"],
        "wall_seconds": run["simulation_wall_seconds"],
    }
