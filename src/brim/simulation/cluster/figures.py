"""A cluster run's figures as one JSON object; names mean what they do in docs/simulation.md."""

from __future__ import annotations

from itertools import pairwise

from brim.core.request import FinishReason, TaskClass
from brim.metrics.histogram import Histogram
from brim.metrics.recorder import ClassMetrics
from brim.simulation.cluster.run import ClusterRun
from brim.simulation.cluster.windows import Noted
from brim.simulation.results import Figures, latencies, share_of
from brim.workloads.trace import NANOSECONDS

HOUR_NS = 3600 * NANOSECONDS


def figures(run: ClusterRun) -> Figures:
    """All figures of one run; `windows` are those of the time between two notes."""
    end = run.notes[-1]
    seconds = end.now_ns / NANOSECONDS
    return {
        "duration_seconds": seconds,
        "simulation_wall_seconds": run.wall_seconds,
        **{str(c): _of_class(run.by_class[c], seconds) for c in TaskClass},
        "replicas_ever": run.replicas,
        "replicas_mean": share_of(end.paid_ns, end.now_ns),
        "gpu_hours": end.gpu_ns / HOUR_NS,
        "busy_share": share_of(end.busy_ps, end.paid_ns * 1000),
        "preemptions": end.preemptions,
        "unserved": run.unserved,
        "offline_backlog_left": run.backlog_left,
        "offline_done_seconds": None if run.offline_done_ns is None else run.offline_done_ns / NANOSECONDS,
        "windows": [_window(a, b) for a, b in pairwise([_START, *run.notes]) if b.now_ns > a.now_ns],
    }


_START = Noted(*[0] * 14)


def _of_class(metrics: ClassMetrics[Histogram], seconds: float) -> Figures | None:
    """None where no request of the class counts."""
    if not metrics.arrived:
        return None
    return {
        "requests": metrics.arrived,
        "finished": metrics.ended_well,
        "refused": metrics.finished[FinishReason.REFUSED],
        "throughput_requests_per_second": share_of(metrics.ended_well, seconds),
        "output_tokens": metrics.output_tokens,
        "output_tokens_per_second": share_of(metrics.output_tokens, seconds),
        "slo_attainment": share_of(metrics.slo["all", True], metrics.judged),
        "ttft_attainment": share_of(metrics.slo["ttft", True], metrics.judged),
        "tpot_attainment": share_of(metrics.slo["tpot", True], metrics.judged),
        **latencies(metrics),
        "prefix_hit_rate": metrics.prefix_reuse,
        "recomputed_tokens": metrics.recomputed_tokens,
    }


def _window(start: Noted, end: Noted) -> Figures:
    seconds = (end.now_ns - start.now_ns) / NANOSECONDS
    paid_ps = (end.paid_ns - start.paid_ns) * 1000
    return {
        "until_seconds": end.now_ns / NANOSECONDS,
        "arrivals_per_second": (end.arrived - start.arrived) / seconds,
        "slo_attainment": share_of(end.met - start.met, end.ended - start.ended) if end.judged else None,
        "online_tokens_per_second": (end.online_tokens - start.online_tokens) / seconds,
        "offline_tokens_per_second": (end.offline_tokens - start.offline_tokens) / seconds,
        "replicas_up": end.replicas_up,
        "replicas_mean": (end.paid_ns - start.paid_ns) / (end.now_ns - start.now_ns),
        "busy_share": share_of(end.busy_ps - start.busy_ps, paid_ps),
        "backlog": end.backlog,
    }
