"""Runs as a picture: lines over the rate where there are several, else bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from brim.cli import flags
from brim.core.errors import ConfigError, MissingPackages
from brim.core.request import TaskClass
from brim.simulation.results import Figures

FORMS = (".png", ".svg")
PANELS: tuple[tuple[str, Callable[[Figures], Any]], ...] = (
    ("throughput, requests/s", lambda own: own["throughput_requests_per_second"]),
    ("normalized latency, s/token", lambda own: own["normalized_latency_seconds_per_token"]["mean"]),
    ("TTFT p99, s", lambda own: own["ttft_seconds"]["p99"]),
    ("SLO attainment", lambda own: own["slo_attainment"]),
)


def refuse_unwritable(path: Path) -> None:
    """Raises ConfigError for what can be seen to be wrong before a long run."""
    if path.suffix not in FORMS:
        raise ConfigError(f"--plot {path}: give a name that ends in {' or '.join(FORMS)}")
    flags.refuse_unwritable("--plot", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise MissingPackages("--plot needs matplotlib", "plot") from exc


def draw(runs: Sequence[Figures], title: str, path: Path) -> None:
    """Writes the picture of one task class, the online one where there is any."""
    from matplotlib.figure import Figure

    shown = next(c for c in TaskClass if any(run[c] for run in runs))
    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(f"{title} ({shown} requests)", fontsize=10)
    for axes, (name, read) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.set_title(name, fontsize=9)
        _panel(axes, [(run, read(run[shown])) for run in runs if run[shown]])
    metadata = {"Date": None} if path.suffix == ".svg" else None  # the same runs give the same file
    try:
        figure.savefig(path, metadata=metadata)
    except OSError as exc:
        raise ConfigError(f"can't write the plot to {path}: {exc.strerror}") from exc


def _panel(axes: Any, values: Sequence[tuple[Figures, Any]]) -> None:
    known = [(run["policy"], run.get("rate_requests_per_second"), v) for run, v in values if v is not None]
    if not known:
        axes.text(0.5, 0.5, "nothing to show", ha="center", transform=axes.transAxes)
        return
    policies = list(dict.fromkeys(policy for policy, _, _ in known))
    if known[0][1] is None:
        axes.bar(policies, [value for _, _, value in known])
        axes.tick_params(axis="x", labelrotation=20)
        return
    for policy in policies:
        points = sorted((rate, value) for name, rate, value in known if name == policy)
        axes.plot(*zip(*points, strict=True), marker="o", label=policy, ls=":" if policy == "bound" else "-")
    axes.set_xlabel("requests/s")
    axes.legend(fontsize=8)
