"""Published tables of kernel times, read and interpolated."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from brim.core.errors import ConfigError


def records(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, gzipped or not. Raises ConfigError where it is missing."""
    if not path.is_file():
        raise ConfigError(f"{path} is missing; --data must be the folder that docs/profiles.md describes")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


@dataclass(frozen=True)
class Curve:
    """Times at rising sizes. Between two of them a straight line; outside, the nearest end in proportion."""

    sizes: tuple[float, ...]
    times: tuple[float, ...]

    def __call__(self, size: float) -> float:
        if size > self.sizes[-1]:
            return self.times[-1] * size / self.sizes[-1]
        return float(np.interp(size, self.sizes, self.times))

    def scaled(self, factor: float) -> Curve:
        return Curve(self.sizes, tuple(time * factor for time in self.times))


def curve(points: Iterable[tuple[float, float]]) -> Curve:
    """A curve through (size, time) points; of several at one size, the median."""
    times = defaultdict(list)
    for size, time in points:
        times[size].append(time)
    sizes = sorted(times)
    return Curve(tuple(sizes), tuple(median(times[size]) for size in sizes))


def total(curves: Iterable[Curve]) -> Curve:
    """The sum of curves, at the sizes of the first."""
    first, *rest = curves
    return Curve(first.sizes, tuple(first(size) + sum(c(size) for c in rest) for size in first.sizes))


def blend(below: Curve, above: Curve, share: float) -> Curve:
    """`1 - share` of one curve and `share` of the other."""
    return total([below.scaled(1 - share), above.scaled(share)])


def between(curves: Mapping[float, Curve], at: float) -> Curve:
    """The curve at `at`, from those at other places: a straight line between the nearest two.

    Outside them, the nearest one in proportion.
    """
    if at in curves:
        return curves[at]
    places = sorted(curves)
    if not places[0] < at < places[-1]:
        nearest = places[0] if at < places[0] else places[-1]
        return curves[nearest].scaled(at / nearest)
    above = next(place for place in places if place > at)
    below = places[places.index(above) - 1]
    return blend(curves[below], curves[above], (at - below) / (above - below))
