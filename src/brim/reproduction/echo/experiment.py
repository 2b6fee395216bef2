"""Echo's experiments (arXiv 2504.03651), built from its published abstract and summaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from brim.profiles.loader import load
from brim.reproduction.echo.aims import aims, cache_bound, ratio
from brim.reproduction.echo.offline import backlog, ideal_hit_rate
from brim.reproduction.echo.plan import RATES, Plan, alone_points, points
from brim.reproduction.echo.points import MARGIN, TTFT_SECONDS, Bench, measure
from brim.simulation.processes import measure_all
from brim.simulation.results import Figures

Tell = Callable[[str, int], Callable[[], None]]  # what is run, and how many; to be called after each


def reproduce(plan: Plan, jobs: int, tell: Tell) -> Iterator[Figures]:
    """Every figure so far, as one JSON object, each time that a bench is through.

    Those of real time have `wall` or `scheduling` in their names.
    """
    asked = alone_points(plan)
    measured = measure_all(measure, asked, jobs, tell("online only", len(asked)))
    alone = {point.bench: run for point, run in zip(asked, measured, strict=True)}
    benches: list[Figures] = []
    step_tokens: dict[Bench, float] = {}  # of bs, found last beside the same online load
    for bench in plan.benches:
        told = _reproduce_on(bench, plan, alone[bench.alone()], step_tokens.get(bench.alone()), jobs, tell)
        benches.append(told)
        step_tokens[bench.alone()] = told["rows"][0]["value"]
        yield {**_plan(plan), "aims": [aim for one in benches for aim in aims(one)], "benches": benches}


def _reproduce_on(
    bench: Bench, plan: Plan, alone: Figures, step_tokens: float | None, jobs: int, tell: Tell
) -> Figures:
    kv_tokens = load(bench.profile).kv_tokens()
    left = round(kv_tokens * (1 - alone["kv_written"]))
    asked = points(plan, bench, alone, left, step_tokens)
    rows = measure_all(measure, asked, jobs, tell(bench.name, len(asked)))
    told: Figures = {
        "name": bench.name,
        "profile": bench.profile,
        "online": bench.online,
        "offline": bench.offline,
        "tpot_ms": bench.tpot_ms,
        "online_rate": RATES[bench.profile],
        "kv_tokens": kv_tokens,
        "kv_tokens_left": left,
        "ideal_hit_rate": ideal_hit_rate(backlog(bench.offline, asked[0].source)),
        "online_only": alone,
        "rows": rows,
    }
    for row in rows:
        row |= {"ratio": ratio(told, row), "cache_bound": cache_bound(told, row)}
    return told


def _plan(plan: Plan) -> Figures:
    return {
        "experiment": "echo",
        "quick": plan.quick,
        "seed": plan.seed,
        "warm_up_seconds": plan.warm_up_s,
        "measured_seconds": plan.measured_s,
        "documents": plan.documents,
        "ttft_seconds": TTFT_SECONDS,
        "attainment_margin": MARGIN,
        "real_traces": plan.data is not None,
    }
