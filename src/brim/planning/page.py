"""A plan as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from brim.planning.report import answer, asked, lines, why_not
from brim.planning.svg import Line, plot
from brim.simulation.results import Figures

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
td { text-align: right } td:first-child, th:first-child { text-align: left } th { font-weight: 600 }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600 } svg text { font-size: 11px; fill: #444 }
pre { white-space: pre-wrap; background: #f6f6f4; padding: 1rem }
"""


def page(plan: Figures) -> str:
    title = f"GPUs for {plan['trace']}"
    body = "\n".join(_body(plan))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _body(plan: Figures) -> Iterator[str]:
    yield f"<p>{escape(asked(plan))}</p>"
    yield _table(plan)
    yield f"<p>{escape(answer(plan))}</p>"
    for one in plan["plans"]:
        if one["replicas"] is not None:
            yield f"<h2>{escape(one['profile'])}, {escape(one['policy'])}</h2>"
            whole = plan["simulated_requests"] == plan["requests"]
            yield from _plots(one, plan["attainment"], "" if whole else ", the busiest stretch")
    yield f"<h2>In words</h2><pre>{escape(chr(10).join(lines(plan)))}</pre>"


def _table(plan: Figures) -> str:
    head = ("profile", "policy", "replicas", "GPUs", "band", "$/hour", "TTFT p99, s", "TPOT p99, ms")
    rows = "".join(f"<tr>{_row(one)}</tr>" for one in plan["plans"])
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}</table>"


def _row(one: Figures) -> str:
    names = [one["profile"], one["policy"]]
    if one["feasible"]:
        return "".join(f"<td>{escape(cell)}</td>" for cell in [*names, *_cells(one)])
    told = "".join(f"<td>{escape(name)}</td>" for name in names)
    return f'{told}<td colspan="6">infeasible: {escape(why_not(one))}</td>'


def _cells(one: Figures) -> list[str]:
    run, band = one["run"]["online"], one.get("band")
    tpot = run["tpot_seconds"]["p99"]
    return [
        str(one["replicas"]),
        str(one["gpus"]),
        f"{band['least']} to {band['most']}" if band else "",
        "" if one["cost_per_hour"] is None else f"{one['cost_per_hour']:.2f}",
        f"{run['ttft_seconds']['p99']:.3f}",
        "" if tpot is None else f"{1000 * tpot:.1f}",
    ]


def _plots(one: Figures, target: float, where: str) -> Iterator[str]:
    """`where`: of what was searched on."""
    windows = one["run"]["windows"]
    tried = sorted((float(n), share) for n, share in one["attempts"].items())
    wanted = Line("asked for", [(0.0, target), (tried[-1][0], target)], dashed=True)
    lines = [Line("simulated", tried, dots=True), wanted]
    yield plot("attainment by replicas", "replicas", lines, zoomed=True)
    rates = [(w["until_seconds"] / 3600, w["arrivals_per_second"]) for w in windows]
    yield plot(f"arrivals{where}", "hours", [Line("online requests/s", rates, step=True)])
    yield from _over_time(one)
    if whole := one.get("whole"):
        met = sorted((s["start_seconds"] / 3600, s["attainment"]) for s in whole["by_stretch"])
        stretches = [Line("stretches simulated", met, dots=True)]
        yield plot("attainment over the whole trace", "hours", stretches, zoomed=True)
    if offline := one.get("offline"):
        done = zip(offline["until_seconds"], offline["tokens_done"], strict=True)
        points = [(0.0, 0.0), *((seconds / 3600, tokens / 1e6) for seconds, tokens in done)]
        yield plot("offline work beside it", "hours", [Line("million tokens done", points)])


def _over_time(one: Figures) -> Iterator[str]:
    """Of the whole trace; what was simulated on its busiest stretch alone is a plot of its own."""
    needed, scaling, whole = one.get("over_time"), one.get("scaling"), one.get("whole")
    end_hours = one["run"]["windows"][-1]["until_seconds"] / 3600
    scaled = _scaled(scaling) if scaling else []
    if whole and scaling:
        busiest = [(w["until_seconds"] / 3600, w["replicas_mean"]) for w in scaling["windows"]]
        lines = [_static(one, end_hours), Line("scaled, start-up included", busiest, step=True)]
        yield plot("replicas, the busiest stretch", "hours", lines)
    lines = [_static(one, end_hours), *scaled]
    if needed and needed["replicas"]:
        width = needed["part_seconds"] / 3600
        points = [(width * (i + 1), float(n)) for i, n in enumerate(needed["replicas"])]
        lines = [_static(one, points[-1][0]), *scaled, Line("needed", points, step=True, dashed=True)]
    if len(lines) > 1:
        yield plot("replicas over time", "hours", lines)


def _static(one: Figures, end_hours: float) -> Line:
    replicas = float(one["replicas"])
    return Line("least that holds the SLO", [(0.0, replicas), (end_hours, replicas)])


def _scaled(scaling: Figures) -> list[Line]:
    """Over the whole trace: the stretches simulated, or all of it."""
    if not scaling["stretches"]:
        points = [(w["until_seconds"] / 3600, w["replicas_mean"]) for w in scaling["windows"]]
        return [Line("scaled, start-up included", points, step=True)]
    stretches = sorted((s["start_seconds"] / 3600, s["replicas_mean"]) for s in scaling["by_stretch"])
    return [Line("scaled, start-up included: mean of each stretch", stretches, dots=True)]
