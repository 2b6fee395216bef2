"""Runs as tables for people: one for each task class and rate, a column for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from brim.core.request import TaskClass
from brim.simulation.results import Figures
from brim.workloads.wording import counted

ANY_WIDTH = 10_000  # columns, where no terminal sets a limit


class Row(NamedTuple):
    title: str
    read: Callable[[Figures, Figures], Any]  # of the run, and of its class
    form: str = ".3g"
    scale: float = 1


ROWS = (
    Row("requests/s", lambda run, own: own["throughput_requests_per_second"]),
    Row("output tokens/s", lambda run, own: own["output_tokens_per_second"], ".0f"),
    Row("TTFT mean, s", lambda run, own: own["ttft_seconds"]["mean"]),
    Row("TTFT p50, s", lambda run, own: own["ttft_seconds"]["p50"]),
    Row("TTFT p99, s", lambda run, own: own["ttft_seconds"]["p99"]),
    Row("ITL p50, ms", lambda run, own: own["itl_seconds"]["p50"], ".3g", 1e3),
    Row("ITL p99, ms", lambda run, own: own["itl_seconds"]["p99"], ".3g", 1e3),
    Row("TPOT mean, ms", lambda run, own: own["tpot_seconds"]["mean"], ".3g", 1e3),
    Row("E2E mean, s", lambda run, own: own["e2e_seconds"]["mean"]),
    Row("E2E p99, s", lambda run, own: own["e2e_seconds"]["p99"]),
    Row("normalized latency, s/token", lambda run, own: own["normalized_latency_seconds_per_token"]["mean"]),
    Row("SLO attainment", lambda run, own: own["slo_attainment"], ".1%"),
    Row("goodput, requests/s", lambda run, own: own["goodput_requests_per_second"]),
    Row("prefix hits", lambda run, own: own["prefix_hit_rate"], ".1%"),
    Row("recomputed tokens", lambda run, own: own["recomputed_tokens"], "d"),
    Row("preemptions (all classes)", lambda run, own: run["preemptions"], "d"),
    Row("KV cache in use", lambda run, own: run["kv"]["written_mean"], ".1%"),
    Row("busy", lambda run, own: run["compute"]["busy_share"], ".1%"),
    Row("simulated in, s", lambda run, own: run["simulation_wall_seconds"], ".2f"),
)


def show(about: Sequence[str], runs: Sequence[Figures]) -> None:
    """Rows that have nothing to say are left out; what is too wide for the terminal goes below the rest."""
    console = Console()
    width = console.width if console.is_terminal else ANY_WIDTH
    for text in about:
        Console(width=width).print(text, highlight=False, markup=False)
    rates = dict.fromkeys(run.get("rate_requests_per_second") for run in runs)
    for rate in rates:
        at_rate = [run for run in runs if run.get("rate_requests_per_second") == rate]
        for task_class in TaskClass:
            if mine := [run for run in at_rate if run[task_class] is not None]:
                _show_table(task_class, rate, mine, width)


def _show_table(task_class: TaskClass, rate: float | None, runs: Sequence[Figures], width: int) -> None:
    """In two, and these in two, until all fits; a table of one run is never cut."""
    table = _table(task_class, rate, runs)
    needed = Console(width=ANY_WIDTH).measure(table).maximum
    if needed <= width or len(runs) == 1:
        Console(width=max(needed, width)).print(table)
        return
    middle = (len(runs) + 1) // 2
    for part in (runs[:middle], runs[middle:]):
        _show_table(task_class, rate, part, width)


def _table(task_class: TaskClass, rate: float | None, runs: Sequence[Figures]) -> Table:
    counts = runs[0][task_class]
    title = f"{task_class}: {counted(counts['requests'], 'request')}"
    title += f", {counts['refused']} of them refused" if counts["refused"] else ""
    title += f", {counted(counts['cut'], 'answer')} cut" if counts["cut"] else ""
    title += f", at {rate:g} requests/s" if rate is not None else ""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for run in runs:
        table.add_column(run["policy"], justify="right")
    for row in ROWS:
        values = [row.read(run, run[task_class]) for run in runs]
        if any(value is not None for value in values):
            table.add_row(row.title, *(_cell(row, value) for value in values))
    return table


def _cell(row: Row, value: Any) -> str:
    return "" if value is None else format(value * row.scale, row.form)
