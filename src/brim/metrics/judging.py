"""Whether a request met its targets."""

from __future__ import annotations

from brim.core.request import SLO


def targets_of(slo: SLO) -> dict[str, int]:
    """The targets that are set, in nanoseconds."""
    targets = {"ttft": slo.ttft_ns, "tpot": slo.tpot_ns, "itl": slo.itl_ns, "e2e": slo.e2e_ns}
    return {name: ns for name, ns in targets.items() if ns is not None}


def judged(targets_ns: dict[str, int], reached_ns: dict[str, float]) -> list[tuple[str, bool]]:
    """(target, met) for each target the request had, and for `all` of them together."""
    met = {name: reached_ns[name] <= ns for name, ns in targets_ns.items()}
    return [*met.items(), ("all", all(met.values()))]


def missed(targets_ns: dict[str, int], reached_ns: dict[str, float]) -> list[tuple[str, bool]]:
    """Of `judged`, what was missed: of a request that got no answer nothing counts as met."""
    return [outcome for outcome in judged(targets_ns, reached_ns) if not outcome[1]]
