"""A picture of each set-up: latency, JCT and SLO attainment over the rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brim.reproduction.claims import over_rates
from brim.reproduction.report import picture
from brim.simulation.bound import NAME as BOUND
from brim.simulation.results import Figures

PANELS = (
    ("normalized latency, s/token (log)", "normalized_latency", True),
    ("mean JCT, s (log)", "jct", True),
    ("SLO attainment", "attainment", False),
)
SETTINGS = {"svg.hashsalt": "brim", "svg.fonttype": "none"}  # the same figures give the same file


def draw(results: Figures, folder: Path) -> None:
    """Writes an SVG for each set-up."""
    for bench in results["benches"]:
        _draw(bench, folder / picture(bench["name"]))


def _draw(bench: Figures, path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(p["label"] for p in bench["points"] if p["group"] == "rates"))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(13, 4.6), layout="constrained")
        figure.suptitle(f"{bench['name']}, simulated on {bench['profile']}", fontsize=10)
        panels = list(figure.subplots(1, 3))
        for axes, (title, key, is_log) in zip(panels, PANELS, strict=True):
            _panel(axes, bench, labels, key)
            axes.set_title(title, fontsize=9)
            if is_log:
                axes.set_yscale("log")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Any, bench: Figures, labels: Sequence[str], key: str) -> None:
    for i, label in enumerate(labels):
        points = [(p["rate"], p[key]) for p in over_rates(bench, label) if p[key] is not None]
        style = ":" if label == BOUND else "-" if label.startswith("econoserve") else "--"
        axes.plot(
            *zip(*points, strict=True),
            ls=style,
            marker="." if style == "-" else "",
            label=label,
            color=f"C{i % 10}",
        )
    axes.axvline(bench["saturation"], color="0.8", zorder=0)
    axes.set_xlabel("requests/s")
