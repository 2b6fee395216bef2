"""What offline work fits beside the online load, and when a backlog of it would be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from brim.planning.parts import Parts, line
from brim.planning.question import Aim, Kind, Load
from brim.planning.tasks import Filled
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS

DAY_SECONDS = 86_400
REPLICA_SECONDS = 120  # simulated of each part: with offline work every step is full, and has its decision
LEAST_SECONDS = 20
WARM_SECONDS = 10  # or a quarter of it, in which the first offline requests enter


def fillings(kind: Kind, load: Load, parts: Parts, aim: Aim, replicas: int) -> list[Filled]:
    """One for each chosen part: the busiest stretch of it, as long as is simulated.

    A time, and not so many requests: a burst has room for offline work behind it.
    """
    span_ns = min(max(REPLICA_SECONDS // replicas, LEAST_SECONDS) * NANOSECONDS, parts.end_ns)
    warm_ns = min(WARM_SECONDS * NANOSECONDS, span_ns // 4)
    window_ns = max(span_ns // 16, NANOSECONDS // 4)
    stretch = replace(load, window_ns=window_ns, measured_from_ns=warm_ns, until_ns=span_ns)
    traces = [parts.busiest_time(part, span_ns, warm_ns) for part in parts.chosen()]
    return [Filled(kind, replace(stretch, trace=trace), aim, replicas) for trace in traces]


def offline_figures(filled: Sequence[Figures], parts: Parts) -> Figures:
    """Of the whole trace, each part read off between those that were filled."""
    whole_seconds = sum(part.seconds for part in parts.all)
    done, busy, missed = [], 0.0, 0.0
    points = {
        name: sorted((one["rate"], one[name]) for one in filled)
        for name in ("tokens_per_second", "busy_share", "attainment")
    }
    for part in parts.all:
        done.append(part.seconds * line(points["tokens_per_second"], part.rate))
        busy += part.seconds * line(points["busy_share"], part.rate)
        missed += part.num_requests * (1 - line(points["attainment"], part.rate))
    tokens_per_second = sum(done) / whole_seconds
    return {
        "replicas": filled[0]["replicas"],
        "attainment": 1 - missed / len(parts.trace),
        "tokens_per_second": tokens_per_second,
        "tokens_per_day": tokens_per_second * DAY_SECONDS,
        "busy_share": busy / whole_seconds,
        "simulated_seconds": sum(one["simulated_seconds"] for one in filled),
        "simulated": [dict(one) for one in filled],
        "until_seconds": list(accumulate(part.seconds for part in parts.all)),
        "tokens_done": list(accumulate(done)),
    }


def backlog_done(offline: Figures, tokens: float, daily: bool = False) -> Figures | None:
    """When so many tokens are done, the trace repeating as often as it takes; None without a backlog.

    `days_of_work` is how many days those of one day take, where they come `daily`.
    """
    if not tokens:
        return None
    figures = {"tokens": tokens, "daily": daily}
    span, whole = offline["until_seconds"][-1], offline["tokens_done"][-1]
    if not whole:
        return {**figures, "done_seconds": None, "rounds_of_trace": None, "days_of_work": None}
    rounds, left = divmod(tokens, whole)
    before = [(0.0, 0.0), *zip(offline["until_seconds"], offline["tokens_done"], strict=True)]
    (start, had), (end, has) = next((a, b) for a, b in pairwise(before) if b[1] >= left and b[1] > a[1])
    return {
        **figures,
        "done_seconds": rounds * span + start + (end - start) * (left - had) / (has - had),
        "rounds_of_trace": tokens / whole,
        "days_of_work": tokens / whole * span / DAY_SECONDS,
    }
