"""The answer held against the whole of a trace that is too long to be searched on."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from brim.planning.parts import Parts
from brim.planning.question import Aim, Kind, Load
from brim.planning.tasks import Checked
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS


def checks(
    kind: Kind, load: Load, parts: Parts, aim: Aim, replicas: int, most: int, seed: int
) -> list[Checked]:
    """Stretches with `most` requests in all, from parts of every load; the whole trace where that is more."""
    return [
        Checked(kind, stretch, aim, replicas, part.num_requests, part.start_ns / NANOSECONDS)
        for part, stretch in parts.stretches(load, most, seed)
    ]


def whole_figures(checked: Sequence[Figures], num_requests: int) -> Figures:
    """The attainment of all requests, and its standard error where not all were simulated.

    Each stretch counts by the requests of its part.
    """
    weights = [one["requests"] for one in checked]
    shares = [one["attainment"] for one in checked]
    total, simulated = sum(weights), sum(one["simulated_requests"] for one in checked)
    mean = sum(w * share for w, share in zip(weights, shares, strict=True)) / total
    error = sqrt(sum((w * (share - mean)) ** 2 for w, share in zip(weights, shares, strict=True))) / total
    return {
        "attainment": mean,
        "complete": simulated >= num_requests,
        "standard_error": 0.0 if simulated >= num_requests else error,
        "simulated_requests": simulated,
        "stretches": len(checked),
        "least": min(shares),
        "least_at_seconds": min(checked, key=lambda one: float(one["attainment"]))["start_seconds"],
        "by_stretch": [{name: one[name] for name in ("start_seconds", "attainment")} for one in checked],
    }
