"""The claims of EconoServe's abstract, each beside what was measured in each set-up."""

from __future__ import annotations

from collections.abc import Sequence

from brim.reproduction.plan import BASELINE, FULL
from brim.reproduction.points import ORACLE
from brim.reproduction.ratios import Held, change, held_at
from brim.simulation.bound import NAME as BOUND
from brim.simulation.results import Figures

ORACLE_ROW = f"{FULL} ({ORACLE})"
LATENCY = "normalized_latency"


def claims(benches: Sequence[Figures]) -> list[Figures]:
    """For each set-up: throughput at equal latency, JCT, SLO satisfaction, all against vllm-2023.

    Beside EconoServe, the best of the others that do not know the truth.
    """
    return [
        _claim(bench, label) for bench in benches for label in (FULL, ORACLE_ROW, _best_of_the_others(bench))
    ]


def over_rates(bench: Figures, label: str) -> list[Figures]:
    """A scheduler's points over the rate, by rising rates."""
    own = [p for p in bench["points"] if p["group"] == "rates" and p["label"] == label]
    return sorted(own, key=lambda p: p["load"])


def limits(bench: Figures) -> dict[str, float]:
    """Normalized latencies at which rates are compared, s/token."""
    baseline = over_rates(bench, BASELINE)
    at_saturation = next(p for p in baseline if p["load"] == 1.0)
    return {
        "twice that of vllm-2023 at the lowest load": 2 * baseline[0][LATENCY],
        "that of vllm-2023 at its saturation": at_saturation[LATENCY],
    }


def rate_held(bench: Figures, label: str, limit: float) -> Held:
    return held_at([(p["rate"], p[LATENCY]) for p in over_rates(bench, label)], limit)


def _claim(bench: Figures, label: str) -> Figures:
    return {
        "bench": bench["name"],
        "label": label,
        "throughput": {name: _ratio(bench, label, limit) for name, limit in limits(bench).items()},
        "jct": _changes(bench, label, "jct"),
        "attainment": _changes(bench, label, "attainment"),
    }


def _best_of_the_others(bench: Figures) -> str:
    """By the JCT at 1.0x."""
    at_saturation = [
        p
        for p in bench["points"]
        if p["group"] == "rates"
        and p["load"] == 1.0
        and p["policy"] != BOUND
        and not p["policy"].startswith(FULL)
        and p["lengths"] != ORACLE
    ]
    return str(min(at_saturation, key=lambda p: p["jct"])["label"])


def _ratio(bench: Figures, label: str, limit: float) -> Figures:
    ours, theirs = rate_held(bench, label, limit), rate_held(bench, BASELINE, limit)
    return {
        "limit_seconds": limit,
        "rate": ours.rate,
        "ratio": ours.rate / theirs.rate,
        "beyond": ours.beyond,
    }


def _changes(bench: Figures, label: str, figure: str) -> list[Figures]:
    """At each load: the figure of vllm-2023, that of the scheduler, and the change as a share."""
    pairs = zip(over_rates(bench, BASELINE), over_rates(bench, label), strict=True)
    return [
        {
            "load": ours["load"],
            "from": theirs[figure],
            "to": ours[figure],
            "change": change(ours[figure], theirs[figure]),
        }
        for theirs, ours in pairs
    ]
