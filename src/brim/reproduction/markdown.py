"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from brim.simulation.results import Figures


class Column(NamedTuple):
    title: str
    key: str
    form: str = ".3g"
    scale: float = 1


COLUMNS = {
    "normalized_latency": Column("normalized latency, ms/token", "normalized_latency", ".3g", 1e3),
    "jct": Column("JCT mean, s", "jct"),
    "attainment": Column("SLO attainment", "attainment", ".1%"),
    "goodput": Column("goodput, requests/s", "goodput"),
    "throughput": Column("requests/s", "throughput"),
    "output_tokens_per_second": Column("output tokens/s", "output_tokens_per_second", ".0f"),
    "kv_written": Column("KV written", "kv_written", ".1%"),
    "kv_promised": Column("KV promised", "kv_promised", ".1%"),
    "kv_lent": Column("KV lent", "kv_lent", ".1%"),
    "forward_over_tfs": Column("forward size / TFS", "forward_over_tfs", ".1%"),
    "allocation_failures": Column("allocation failures", "allocation_failures", "d"),
    "preemptions": Column("preemptions", "preemptions", "d"),
    "recomputed_per_request": Column("tokens recomputed / request", "recomputed_per_request", ".3g"),
    "mean_running": Column("outputs a step", "mean_running", ".0f"),
}


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    lines = [" | ".join(titles), " | ".join(["---"] + ["---:"] * (len(titles) - 1))]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def cell(value: Any, form: str = ".3g", scale: float = 1) -> str:
    if value is None:
        return ""
    return format(value if form == "d" else value * scale, form)


def of_points(points: Sequence[Figures], keys: Sequence[str], label: Callable[[Figures], str]) -> str:
    """A row for each point, a column for each key."""
    columns = [COLUMNS[key] for key in keys]
    rows = [[label(p), *(cell(p[c.key], c.form, c.scale) for c in columns)] for p in points]
    return table(["", *(c.title for c in columns)], rows)


def over_loads(points: Sequence[Figures], key: str, loads: Sequence[float]) -> str:
    """A row for each scheduler, a column for each load."""
    column = COLUMNS[key]
    found = {(p["label"], p["load"]): p[column.key] for p in points}
    labels = dict.fromkeys(p["label"] for p in points)
    rows = [
        [label, *(cell(found.get((label, load)), column.form, column.scale) for load in loads)]
        for label in labels
    ]
    return table([column.title, *(f"{load:g}x" for load in loads)], rows)
