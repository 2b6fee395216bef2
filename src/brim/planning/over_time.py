"""How many replicas each part of a trace needs: a few parts searched, the others read off between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from brim.planning.parts import Parts, Points, line
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS


def over_time(parts: Parts, searched: Sequence[Figures]) -> Figures:
    """Replicas by part, each with its own attainment; none at all where no number held any.

    A part may need more than the whole trace does, which may have its misses in one part.
    """
    known = sorted(
        (part.rate, float(one["replicas"]))
        for part, one in zip(parts.chosen(), searched, strict=True)
        if one["replicas"] is not None
    )
    needs = [needed(known, part.rate) for part in parts.all] if known else []
    seconds = [part.seconds for part in parts.all]
    return {
        "part_seconds": parts.width_ns / NANOSECONDS,
        "searched_parts": len(searched),
        "unheld_parts": len(searched) - len(known),
        "replicas": needs,
        "peak": max(needs, default=None),
        "mean": sum(n * s for n, s in zip(needs, seconds, strict=True)) / sum(seconds) if needs else None,
    }


def needed(known: Points, rate: float) -> int:
    """Rounded up; one where nothing arrives."""
    return ceil(line(known, rate) - 1e-9) if rate else 1
