"""A run's figures as one JSON object. docs/simulation.md says what each field means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from brim.core.request import FinishReason, TaskClass
from brim.metrics.recorder import ClassMetrics
from brim.simulation.run import Run, Snapshot
from brim.workloads.trace import NANOSECONDS

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Figures = dict[str, Any]


class Observed(Protocol):
    """A distribution that tells of itself: `Samples`, `Histogram`."""

    def observe(self, value: float, times: int = 1) -> None: ...
    @property
    def mean(self) -> float | None: ...
    def percentiles(self, shares: Sequence[float]) -> list[float | None]: ...


D = TypeVar("D", bound=Observed)


def summary(samples: Observed) -> Figures:
    """Mean and percentiles; null where nothing was observed."""
    return {"mean": samples.mean, **dict(zip(SHARES, samples.percentiles([*SHARES.values()]), strict=True))}


def figures(run: Run) -> Figures:
    """All figures of one run. Those of real time have `wall` or `scheduling` in their names."""
    classes = {str(c): _of_class(run, c) for c in TaskClass}
    return {
        "policy": run.setup.policy.name if run.setup.policy else run.setup.config.policy,
        "duration_seconds": _between(run).seconds,
        "steps": run.end.totals.steps - run.start.totals.steps,
        "simulation_wall_seconds": run.wall_seconds,
        **classes,
        "kv": _kv(run),
        "compute": _compute(run),
        "allocation_failures": run.end.allocation_failures - run.start.allocation_failures,
        "preemptions": run.end.preemptions - run.start.preemptions,
        "scheduling_seconds_per_step": share_of(run.schedule_wall_seconds, run.schedule_calls),
    }


@dataclass(frozen=True, slots=True)
class _Between:
    """The time that rates are taken over."""

    start: Snapshot
    end: Snapshot

    @property
    def nanoseconds(self) -> int:
        return self.end.now_ns - self.start.now_ns

    @property
    def seconds(self) -> float:
        return self.nanoseconds / NANOSECONDS

    def rate(self, counted: str, task_class: TaskClass) -> float | None:
        """By seconds."""
        number = getattr(self.end, counted)[task_class] - getattr(self.start, counted)[task_class]
        return share_of(number, self.seconds)


def _between(run: Run) -> _Between:
    return _Between(run.start, run.end)


def _of_class(run: Run, task_class: TaskClass) -> Figures | None:
    """None where no request of the class was measured."""
    metrics, between = run.by_class[task_class], _between(run)
    if not metrics.arrived:
        return None
    caching = run.setup.config.enable_prefix_caching
    return {
        "requests": metrics.arrived,
        "finished": metrics.ended_well,
        "refused": metrics.finished[FinishReason.REFUSED],
        "cut": metrics.finished[FinishReason.LENGTH],  # of whole answers the last token drawn is a stop
        "throughput_requests_per_second": between.rate("finished", task_class),
        "output_tokens_per_second": between.rate("output_tokens", task_class),
        "goodput_requests_per_second": between.rate("met", task_class) if metrics.judged else None,
        "slo_attainment": share_of(metrics.slo["all", True], metrics.judged),
        **latencies(metrics),
        "prefix_hit_rate": share_of(metrics.cached_tokens, metrics.prompt_tokens) if caching else None,
        "recomputed_tokens": metrics.recomputed_tokens,
    }


def latencies(metrics: ClassMetrics[D]) -> Figures:
    return {
        "ttft_seconds": summary(metrics.ttft_seconds),
        "itl_seconds": summary(metrics.itl_seconds),
        "tpot_seconds": summary(metrics.tpot_seconds),
        "e2e_seconds": summary(metrics.e2e_seconds),
        "normalized_latency_seconds_per_token": summary(metrics.normalized_latency_seconds),
    }


def _kv(run: Run) -> Figures:
    """Mean shares of the KV cache over time."""
    start, end = run.start.totals, run.end.totals
    twice = 2 * run.setup.config.num_blocks * _between(run).nanoseconds
    return {
        "written_mean": share_of(end.written - start.written, twice),
        "promised_mean": share_of(end.promised - start.promised, twice),
        "lent_mean": share_of(end.lent - start.lent, twice),
    }


def _compute(run: Run) -> Figures:
    start, end = run.start.totals, run.end.totals
    target = run.setup.machine.target_forward_tokens
    return {
        "forward_over_tfs_mean": share_of(end.tokens - start.tokens, (end.steps - start.steps) * target),
        "busy_share": share_of(end.busy_ps - start.busy_ps, _between(run).nanoseconds * 1000),
    }


def share_of(part: float, whole: float) -> float | None:
    return part / whole if whole else None
