"""A histogram of fixed buckets, as Prometheus counts: cheap to fill, mergeable, bounded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts of observations at or under each bound, `bounds` ascending; the last bucket is open."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """None where nothing was observed."""
        return self.sum / self.count if self.count else None

    def add(self, other: Histogram) -> None:
        """Takes in all that another one of the same bounds has observed."""
        if other.bounds != self.bounds:
            raise ValueError("histograms of different bounds don't add up")
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def percentiles(self, shares: Sequence[float]) -> list[float | None]:
        """The value under which each share (0 to 1) lies, on a straight line inside its bucket.

        The first bucket begins at 0; a value in the open bucket counts as the last bound.
        """
        ranks = self.cumulative()
        return [self._at(share * ranks[-1], ranks) if ranks[-1] else None for share in shares]

    def _at(self, rank: float, ranks: Sequence[int]) -> float:
        bucket = bisect_left(ranks, max(rank, 1e-9))
        if bucket >= len(self.bounds):
            return self.bounds[-1]
        low = self.bounds[bucket - 1] if bucket else 0.0
        inside = (rank - (ranks[bucket] - self.counts[bucket])) / self.counts[bucket]
        return low + (self.bounds[bucket] - low) * inside

    def cumulative(self) -> list[int]:
        """How many observations are at or under each bound, then how many there are."""
        return list(accumulate(self.counts))
