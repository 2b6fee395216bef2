"""A picture: offline throughput over that of `bs`, with what hits alone can give."""

from __future__ import annotations

from pathlib import Path

from brim.reproduction.echo.aims import CLAIMED_RATIO, row_of
from brim.reproduction.echo.plan import FULL
from brim.reproduction.echo.report import ORDER, PICTURE
from brim.reproduction.plots import SETTINGS
from brim.simulation.results import Figures


def draw(results: Figures, folder: Path) -> None:
    """Writes an SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    benches = results["benches"]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(11, 1.5 + 0.9 * len(benches)), layout="constrained")
        axes = figure.subplots()
        for number, label in enumerate(ORDER):
            rows = [(place, row) for place, bench in enumerate(benches) if (row := row_of(bench, label))]
            places = [place + (number - 2.5) * 0.13 for place, _ in rows]
            axes.barh(places, [row["ratio"] or 0 for _, row in rows], 0.12, color=f"C{number}", label=label)
        bounds = [(row_of(bench, FULL) or {}).get("cache_bound") or 0 for bench in benches]
        axes.plot(bounds, range(len(benches)), "k|", ms=24, label="bound of hits alone, echo")
        axes.axvline(CLAIMED_RATIO, ls=":", color="0.4", label=f"published: {CLAIMED_RATIO}x")
        axes.set_yticks(range(len(benches)), [bench["name"] for bench in benches], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("offline requests/s over bs")
        axes.legend(fontsize=8)
        figure.savefig(folder / PICTURE, metadata={"Date": None})
