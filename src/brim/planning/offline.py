"""What offline work fits beside the online load, and when a backlog of it would be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from brim.planning.parts import Parts, line
from brim.planning.question import Aim, Kind, Load
from brim.planning.tasks import Filled
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS, Trace

DAY_SECONDS = 86_400
REPLICA_SECONDS = 120  # simulated of each part: with offline work every step is full, and has its decision
LEAST_SECONDS = 20
WARM_SECONDS = 10  # or a quarter of it, in which the first offline requests enter


def fillings(kind: Kind, load: Load, parts: Parts, aim: Aim, replicas: int) -> list[Filled]:
    """One for each chosen part: the busiest stretch of it, as long as is simulated."""
    seconds = max(REPLICA_SECONDS // replicas, LEAST_SECONDS)
    found = []
    for part in parts.chosen():
        count = max(round(part.num_requests * min(seconds / part.seconds, 1.0)), 1)
        found.append(Filled(kind, _stretch(load, parts.busiest(part, count)), aim, replicas))
    return found


def _stretch(load: Load, trace: Trace) -> Load:
    span_ns = max(trace.requests[-1].arrival_ns, NANOSECONDS)
    warm_ns = min(WARM_SECONDS * NANOSECONDS, span_ns // 4)
    window_ns = max(span_ns // 16, NANOSECONDS // 4)
    return replace(load, trace=trace, window_ns=window_ns, measured_from_ns=warm_ns)


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


def backlog_done(offline: Figures, tokens: float) -> Figures | None:
    """When so many tokens are done, the trace repeating as often as it takes; None without a backlog."""
    if not tokens or not offline["tokens_done"][-1]:
        return None
    span, whole = offline["until_seconds"][-1], offline["tokens_done"][-1]
    rounds, left = divmod(tokens, whole)
    before = [(0.0, 0.0), *zip(offline["until_seconds"], offline["tokens_done"], strict=True)]
    (start, had), (end, has) = next((a, b) for a, b in pairwise(before) if b[1] >= left and b[1] > a[1])
    inside = start + (end - start) * (left - had) / (has - had)
    return {"tokens": tokens, "done_seconds": rounds * span + inside, "rounds_of_trace": tokens / whole}
