"""A rate of arrivals that changes over time, and files that tell one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat
from pathlib import Path
from statistics import median

from brim.core.errors import ConfigError, TraceError
from brim.workloads.source import Table, exact, opened

DAY_S = 86_400
Rates = Mapping[float, float]  # requests/s by the start of their window in seconds


@dataclass(frozen=True)
class Envelope:
    """A rate that changes in steps: each (start in seconds, requests/s) holds until the next, or `end_s`."""

    steps: tuple[tuple[float, float], ...]
    end_s: float
    name: str = "envelope"

    def __post_init__(self) -> None:
        edges = [start for start, _ in self.steps] + [self.end_s]
        if not self.steps or edges[0] != 0 or any(a >= b for a, b in pairwise(edges)):
            raise ConfigError(f"{self.name}: steps start at 0 s and each later than the one before")
        if any(not 0 <= rate < float("inf") for _, rate in self.steps) or not self.mean_rate:
            raise ConfigError(f"{self.name}: rates are 0 or more requests/s, one of them more than 0")

    @property
    def mean_rate(self) -> float:
        return sum((end - start) * rate for start, end, rate in self._pieces()) / self.end_s

    def scaled_to(self, mean_rate: float) -> Envelope:
        """The same shape with another mean over its whole length."""
        if not 1e-6 <= mean_rate <= 1e6:
            raise ConfigError(f"a rate of {mean_rate:g} makes no arrivals: give a number from 1e-6 to 1e6")
        scale = mean_rate / self.mean_rate
        return replace(self, steps=tuple((start, rate * scale) for start, rate in self.steps))

    def day(self, number: int) -> Envelope:
        """One day of it, counted from 1 at its start. Raises ConfigError where it is not whole."""
        begin, end = (number - 1) * DAY_S, number * DAY_S
        if number < 1 or end > self.end_s:
            raise ConfigError(f"{self.name} has {self.end_s / DAY_S:.3g} days, and no day {number}")
        inside = ((start, rate) for start, until, rate in self._pieces() if until > begin and start < end)
        steps = tuple((max(start - begin, 0), rate) for start, rate in inside)
        return Envelope(steps, DAY_S, f"{self.name} day {number}")

    def pieces_forever(self) -> Iterator[tuple[float, float]]:
        """(seconds, requests/s), over and over."""
        return chain.from_iterable(repeat(tuple((end - start, rate) for start, end, rate in self._pieces())))

    def _pieces(self) -> Iterator[tuple[float, float, float]]:
        """(start, end, requests/s)."""
        ends = [*(start for start, _ in self.steps[1:]), self.end_s]
        return ((start, end, rate) for (start, rate), end in zip(self.steps, ends, strict=True))


def read_envelope(path: str | Path, model: str = "") -> Envelope:
    """An envelope from a CSV file with the columns window_start_s, total_rate_rps and perhaps model.

    `model` names the one to take where the file has several; `a+b` is the sum of two over the windows that
    both have. The first window starts the clock; the last one is as long as the usual one. Raises
    TraceError with file and line.
    """
    path = Path(path)
    with opened(path) as table:
        by_model = _rates_by_model(table)
    windows = _chosen(path, by_model, model)
    starts = [start for start, _ in windows]
    if len(windows) < 2:
        raise TraceError(f"{path}: an envelope has two windows or more")
    end_s = starts[-1] + median(b - a for a, b in pairwise(starts)) - starts[0]
    steps = tuple((start - starts[0], rate) for start, rate in windows)
    return Envelope(steps, end_s, f"{path.name} {model}".strip())


def _chosen(path: Path, by_model: Mapping[str, Rates], model: str) -> list[tuple[float, float]]:
    """The windows of the models named, summed, in order."""
    if not model and len(by_model) == 1:
        [rates] = by_model.values()
        return sorted(rates.items())
    wanted = model.split("+")
    if any(name not in by_model for name in wanted):
        known = ", ".join(filter(None, by_model))
        raise TraceError(
            f"{path}: holds the rates of {known or 'no named model'}: name one of them, or several as a+b"
        )
    shared = set.intersection(*(set(by_model[name]) for name in wanted))
    return [(start, sum(by_model[name][start] for name in wanted)) for start in sorted(shared)]


def _rates_by_model(table: Table) -> dict[str, dict[float, float]]:
    start, rate = "window_start_s", "total_rate_rps"
    if missing := {start, rate} - set(table.columns):
        raise TraceError(f"{table.path}: an envelope needs the columns {', '.join(sorted(missing))}")
    models: dict[str, dict[float, float]] = {}
    for number, row in table.rows:
        name = str(row[table.columns["model"]]) if "model" in table.columns else ""
        windows = models.setdefault(name, {})
        try:
            begin, requests = (float(exact(row[table.columns[column]], column)) for column in (start, rate))
            if begin in windows:
                raise ValueError(f"the window from {begin:g} s is there twice")
        except ValueError as exc:
            raise table.error(number, exc) from None
        windows[begin] = requests
    if not models:
        raise TraceError(f"{table.path}: an envelope has two windows or more")
    return models
