"""How many replicas each part of a trace needs: a few parts searched, the others read off between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from brim.planning.parts import Parts, Points, line
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS


def over_time(parts: Parts, searched: Sequence[Figures], static: int) -> Figures | None:
    """Replicas by part; at most `static`. None where no number held any."""
    known = sorted(
        (part.rate, float(one["replicas"]))
        for part, one in zip(parts.chosen(), searched, strict=True)
        if one["replicas"] is not None
    )
    if not known:
        return None
    needs = [min(needed(known, part.rate), static) for part in parts.all]
    seconds = [part.seconds for part in parts.all]
    return {
        "part_seconds": parts.width_ns / NANOSECONDS,
        "searched_parts": len(known),
        "replicas": needs,
        "peak": max(needs),
        "mean": sum(n * s for n, s in zip(needs, seconds, strict=True)) / sum(seconds),
    }


def needed(known: Points, rate: float) -> int:
    """Rounded up; one where nothing arrives."""
    return ceil(line(known, rate) - 1e-9) if rate else 1
