"""How many replicas each part of a trace needs: a few parts searched, the others read off between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from brim.planning.demand import by_window, work_tokens
from brim.planning.question import Load
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

PARTS = 24
LEAST_PART_NS = 60 * NANOSECONDS
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the parts by their load


def part_ns(load: Load) -> int:
    return max(load.span_ns // PARTS, LEAST_PART_NS)


def chosen_windows(load: Load) -> list[Load]:
    """Parts at even steps from the least to the most loaded. None where there is one part only."""
    parts = sorted(filter(None, by_window(load.trace, part_ns(load))), key=_work)
    if len(parts) < 2:
        return []
    chosen = sorted({round(share * (len(parts) - 1)) for share in SHARES})
    return [replace(load, trace=_alone(load, parts[index])) for index in chosen]


def over_time(load: Load, searched: Sequence[Figures], static: int) -> Figures | None:
    """Replicas by part, on straight lines over the load between those searched; at most `static`."""
    windows = chosen_windows(load)
    known = sorted(
        (_work(window.trace.requests), one["replicas"])
        for window, one in zip(windows, searched, strict=True)
        if one["replicas"] is not None
    )
    if not known:
        return None
    width_ns = part_ns(load)
    needs = [min(_between(known, _work(part)), static) for part in by_window(load.trace, width_ns)]
    return {
        "part_seconds": width_ns / NANOSECONDS,
        "searched_parts": len(known),
        "replicas": needs,
        "peak": max(needs),
        "mean": sum(needs) / len(needs),
    }


def _work(requests: Sequence[TraceRequest]) -> int:
    return sum(map(work_tokens, requests))


def _alone(load: Load, requests: Sequence[TraceRequest]) -> Trace:
    start_ns = requests[0].arrival_ns
    return replace(load.trace, requests=[r._replace(arrival_ns=r.arrival_ns - start_ns) for r in requests])


def _between(known: Sequence[tuple[int, int]], work: int) -> int:
    """Never fewer than one, rounded up."""
    place = bisect_left(known, (work, 0))
    if place == 0:
        return known[0][1] if work else 1
    if place == len(known):
        return known[-1][1]
    (low, few), (high, many) = known[place - 1], known[place]
    return max(ceil(few + (many - few) * (work - low) / (high - low) - 1e-9), 1)
