"""What an autoscaler would keep up: tried where the trace is busiest, then held against the whole of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil, sqrt

from brim.planning.demand import work_tokens
from brim.planning.measure import Measure
from brim.planning.parts import STRETCHES, Part, Parts
from brim.planning.question import Aim, Kind, Load
from brim.planning.tasks import Scaled
from brim.simulation.cluster.setup import Scaling
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS, Trace

LOADS_TRIED = (3.0, 2.0, 1.4, 1.0, 0.6)  # targets, over the mean requests of a replica at the least
MINUTE_NS = 60 * NANOSECONDS
LEAST_STRETCHES = 6
OF_A_STRETCH = ("start_seconds", "attainment", "replicas_mean")
WARMING = 4  # times the requests that count may be simulated to warm up


def tries(kind: Kind, load: Load, aim: Aim, found: Figures, startup_ns: int) -> Iterator[Scaled]:
    """Every target, on what was searched on; `found` is the search that gave the least replicas."""
    least, at_once = found["replicas"], under_way(load, found)
    for share in LOADS_TRIED:
        scaling = Scaling(max(least // 4, 1), 2 * least, share * at_once / least, startup_ns)
        begun = replace(scaling, at_first=first_replicas(scaling, load.trace, at_once, load.trace))
        yield Scaled(kind, load, aim, begun, len(load.trace), load.span_ns / NANOSECONDS)


def under_way(load: Load, found: Figures) -> float:
    """Requests at once in the mean, by Little's law."""
    run = found["run"]
    return float(run["online"]["e2e_seconds"]["mean"] * len(load.trace) / run["duration_seconds"])


def autoscaling(
    tried: Mapping[Kind, Sequence[tuple[Scaled, Figures]]],
    searches: Mapping[Kind, Figures],
    parts: Parts,
    most: int,
    seed: int,
    measure: Measure,
) -> dict[Kind, Figures | None]:
    """The target with the fewest GPU-hours that keeps the aim where the trace is busiest and over the whole.

    None where none of those tried does. Where all of the trace was searched on, that was the whole.
    """
    left = {kind: _cheapest_first(of_kind) for kind, of_kind in tried.items()}
    found: dict[Kind, Figures | None] = dict.fromkeys(tried)
    while left := {kind: options for kind, options in left.items() if options and not found[kind]}:
        now = {kind: options.pop(0) for kind, options in left.items()}
        tasks = {
            kind: over_the_whole(task, under_way(task.load, searches[kind]), parts, most, seed)
            for kind, (task, _) in now.items()
            if len(task.load.trace) < len(parts.trace)
        }
        measured = measure("scaling over the whole trace", tasks) if tasks else {}
        for kind, (task, busiest) in now.items():
            figures = scaling_figures(task, busiest, measured.get(kind, []), parts)
            if figures["attainment"] >= task.aim.attainment:
                found[kind] = figures
    return found


def _cheapest_first(tried: Sequence[tuple[Scaled, Figures]]) -> list[tuple[Scaled, Figures]]:
    held = [(task, one) for task, one in tried if one["attainment"] >= task.aim.attainment]
    return sorted(held, key=lambda pair: float(pair[1]["replicas_mean"]))


def first_replicas(scaling: Scaling, begins: Trace, at_once: float, known: Trace) -> int:
    """As many as the scaling wants in the first minute.

    Requests under way go with the work that comes: over `known` they were `at_once` in the mean.
    """
    under_way = at_once * _rate(begins, MINUTE_NS) / _rate(known)
    return min(max(ceil(under_way / scaling.target), scaling.least), scaling.most)


def over_the_whole(tried: Scaled, at_once: float, parts: Parts, most: int, seed: int) -> list[Scaled]:
    """The same target on stretches with `most` requests in all, from parts of every load.

    Each begins with the replicas wanted for its first minute, and is warmed up for as long as these may be
    wrong: until one more can have started and one fewer be let go. Where that takes more than 4 times `most`
    requests, there are fewer stretches, 6 at least; all of the trace where `most` is as much.
    """
    scaling = tried.scaling
    warm_ns = scaling.startup_ns + scaling.scale_down_after_ns
    warming = warm_ns * len(parts.trace) / parts.trace.requests[-1].arrival_ns  # requests, each stretch
    count = min(max(int(WARMING * most / warming), LEAST_STRETCHES), STRETCHES)

    def stretch(part: Part, load: Load) -> Scaled:
        first = first_replicas(scaling, load.trace, at_once, tried.load.trace)
        return replace(
            tried,
            load=replace(load, window_ns=_window_ns(load)),
            scaling=replace(scaling, at_first=first),
            requests=part.num_requests,
            seconds=part.seconds,
            rate=part.rate,
            start_seconds=part.start_ns / NANOSECONDS,
        )

    return [stretch(*found) for found in parts.stretches(tried.load, most, seed, warm_ns, count)]


def _window_ns(load: Load) -> int:
    """About a sixteenth of what counts; one ends with the warm-up."""
    about_ns = max((load.span_ns - load.measured_from_ns) // 16, NANOSECONDS)
    windows = round(load.measured_from_ns / about_ns)
    return load.measured_from_ns // windows if windows else about_ns


def scaling_figures(task: Scaled, busiest: Figures, stretches: Sequence[Figures], parts: Parts) -> Figures:
    """Of the whole trace: attainment by requests, replicas by time, the least of them where nobody comes.

    Without stretches the busiest was all of it.
    """
    scaled, scaling = stretches or [busiest], task.scaling
    simulated = sum(one["simulated_requests"] for one in scaled)
    whole_seconds = sum(part.seconds for part in parts.all)
    quiet_seconds = sum(part.seconds for part in parts.all if not part.num_requests)
    served = 1 - quiet_seconds / whole_seconds if stretches else 1.0
    met, met_error = mean_and_error(scaled, "attainment", "requests")
    up, up_error = mean_and_error(scaled, "replicas_mean", "seconds")
    replicas, complete = up * served + scaling.least * (1 - served), simulated >= len(parts.trace)
    return {
        "target_requests_per_replica": scaling.target,
        "startup_seconds": scaling.startup_ns / NANOSECONDS,
        "replicas_least": scaling.least,
        "attainment": met,
        "attainment_standard_error": 0.0 if complete else met_error,
        "replicas_mean": replicas,
        "replicas_standard_error": 0.0 if complete else up_error * served,
        "replicas_peak": max(one["replicas_peak"] for one in (busiest, *stretches)),
        "gpu_hours": replicas * whole_seconds / 3600 * task.kind.load().tensor_parallel,
        "complete": complete,
        "simulated_requests": simulated,
        "stretches": len(stretches),
        "busiest_attainment": busiest["attainment"],
        "windows": busiest["windows"],
        "by_stretch": [{name: one[name] for name in OF_A_STRETCH} for one in stretches],
    }


def mean_and_error(scaled: Sequence[Figures], value: str, weight: str) -> tuple[float, float]:
    """The weighted mean of stretches taken evenly from all loads, and its standard error.

    Neighbours by load differ by chance alone: the estimator by successive differences (Wolter,
    Introduction to Variance Estimation, 2007, section 8.2).
    """
    by_load = sorted(scaled, key=lambda one: float(one["rate"]))
    total = sum(one[weight] for one in by_load)
    mean = sum(one[weight] * one[value] for one in by_load) / total
    off = [one[weight] * (one[value] - mean) for one in by_load]
    if len(off) < 2:
        return mean, 0.0
    variance = sum((b - a) ** 2 for a, b in pairwise(off)) / (2 * (len(off) - 1))
    return mean, sqrt(len(off) * variance) / total


def _rate(trace: Trace, most_ns: int | None = None) -> float:
    """Work a second of what arrives up to `most_ns`, or of all."""
    last_ns = trace.requests[-1].arrival_ns
    until_ns = last_ns if most_ns is None else min(last_ns, most_ns)
    return sum(work_tokens(r) for r in trace.requests if r.arrival_ns <= until_ns) / max(
        until_ns, NANOSECONDS
    )
