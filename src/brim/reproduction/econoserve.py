"""EconoServe's experiments (arXiv 2411.06364), built from its published abstract and summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from brim.reproduction.benches import HOST_PS, Bench
from brim.reproduction.claims import claims
from brim.reproduction.plan import Plan, budget_points, points, saturation_point
from brim.reproduction.points import WARM_UP, Point, measure
from brim.reproduction.ratios import packing
from brim.simulation.processes import measure_all
from brim.simulation.results import Figures

Tell = Callable[[str, int], Callable[[], None]]  # what is run, and how many; to be called after each
LENGTHS_COUNTED = 20_000


def reproduce(plan: Plan, jobs: int, tell: Tell) -> Iterator[Figures]:
    """Every figure so far, as one JSON object, each time that a set-up is through.

    Those of real time have `wall` or `scheduling` in their names.
    """
    benches: list[Figures] = []
    for bench in plan.benches:
        benches.append(_reproduce_on(bench, plan, jobs, tell))
        yield {**_plan(plan), "claims": claims(benches), "benches": benches}


def _reproduce_on(bench: Bench, plan: Plan, jobs: int, tell: Tell) -> Figures:
    def run(points: Sequence[Point], what: str) -> list[Figures]:
        return measure_all(measure, points, jobs, tell(f"{bench.name}: {what}", len(points)))

    backlog = run([saturation_point(plan, bench)], "saturation")
    saturation = backlog[0]["saturated_throughput"]
    tried = run(budget_points(plan, bench, saturation), "sarathi's budget")
    budget = _best_budget(tried)
    measured = run(points(plan, bench, saturation, budget), "points")
    about = _about(plan, bench, saturation, budget)
    return {**about, "points": [*backlog, *tried, *measured]}


def _best_budget(tried: Sequence[Figures]) -> int:
    """The tokens with which the mean normalized latency is least."""
    best = min(tried, key=lambda one: one["normalized_latency"])
    return int(best["value"])


def _plan(plan: Plan) -> Figures:
    return {
        "experiment": "econoserve",
        "quick": plan.quick,
        "seed": plan.seed,
        "seconds": plan.seconds,
        "max_requests": plan.max_requests,
        "warm_up_share": WARM_UP,
        "host_seconds_per_step": HOST_PS / 1e12,
        "loads": list(plan.loads),
    }


def _about(plan: Plan, bench: Bench, saturation: float, budget: int) -> Figures:
    profile = bench.load_profile()
    kv_tokens = bench.kv_tokens or profile.kv_tokens()
    requests = bench.requests(LENGTHS_COUNTED, plan.seed, plan.data).requests
    lengths = [(r.input_tokens, r.output_tokens) for r in requests]
    fit = packing(lengths, kv_tokens, bench.max_output)
    return {
        "name": bench.name,
        "profile": profile.name,
        "profile_kind": profile.kind,
        "kv_tokens": kv_tokens,
        "max_model_len": bench.max_model_len,
        "target_forward_tokens": profile.target_forward_tokens,
        "host_in_profile": bench.host_in_profile,
        "mean_input": fmean(i for i, _ in lengths),
        "mean_output": fmean(o for _, o in lengths),
        "packing": {**fit._asdict(), "gain": fit.gain},
        "saturation": saturation,
        "seconds_at_saturation": plan.seconds_at(saturation),
        "sarathi_budget_tokens": budget,
    }
