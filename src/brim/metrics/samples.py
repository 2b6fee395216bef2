"""Every value observed and how often: exact percentiles, for the memory of each distinct value."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate


class Samples:
    """Filled like a `Histogram`; what it tells does not depend on the order of the observations."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: defaultdict[float, int] = defaultdict(int)

    def observe(self, value: float, times: int = 1) -> None:
        self._times[value] += times

    @property
    def count(self) -> int:
        return sum(self._times.values())

    @property
    def sum(self) -> float:
        """Rounded once, at the end."""
        return math.fsum(value * times for value, times in self._times.items())

    @property
    def mean(self) -> float | None:
        """None where nothing was observed."""
        return self.sum / self.count if self._times else None

    def percentiles(self, shares: Sequence[float]) -> list[float | None]:
        """The value under which each share (0 to 1) of the observations lies; None where there are none.

        Between two observations, on the straight line from one to the other, as NumPy does by default.
        """
        if not self._times:
            return [None] * len(shares)
        values = sorted(self._times)
        ranks = list(accumulate(self._times[value] for value in values))
        return [_at(share * (ranks[-1] - 1), values, ranks) for share in shares]


def _at(rank: float, values: Sequence[float], ranks: Sequence[int]) -> float:
    """The value at a rank counted from 0; `ranks[i]` observations are at or under `values[i]`."""
    whole = math.floor(rank)
    low = values[bisect_right(ranks, whole)]
    high = values[min(bisect_right(ranks, whole + 1), len(values) - 1)]
    return low + (high - low) * (rank - whole)
