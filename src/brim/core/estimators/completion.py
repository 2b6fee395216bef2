"""When a backlog will be done, from how much ended of late: a range, or nothing while that is not known."""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import NamedTuple

_SECOND_NS = 1_000_000_000
_MOST_STRETCHES = 16
_FEWEST_STRETCHES = 8
_DEVIATIONS = 2.3  # 19 of 20, by Student's t with 7 to 15 degrees of freedom


class Completion(NamedTuple):
    """From now on."""

    least_seconds: float
    most_seconds: float


class CompletionForecast:
    """Counts what ends in stretches of time in which there was something to do.

    The first stretches are short, so that something is known soon. When there are many of them they are
    joined in pairs, up to the longest; from then on the oldest are forgotten. What differs from stretch to
    stretch tells how far the mean can be trusted. So the range holds as long as things go on as they did in
    the stretches seen; a last answer that is much longer than the others comes later.
    """

    def __init__(self, stretch_seconds: float = 1.0, longest_seconds: float = 128.0) -> None:
        self._stretch_ns = max(int(stretch_seconds * _SECOND_NS), 1)
        self._longest_ns = int(longest_seconds * _SECOND_NS)
        self._counts: deque[float] = deque()
        self._count = 0.0  # of the stretch under way
        self._elapsed_ns = 0  # in it
        self._now_ns: int | None = None
        self._left = 0

    def observe(self, now_ns: int, ended: int, left: int) -> None:
        """So many ended since the last call, and so many are left.

        Time in which nothing was left says nothing, nor does what ended before the first call.
        """
        if self._now_ns is not None and (self._left or ended):
            self._take(max(now_ns - self._now_ns, 0), ended)
        self._now_ns = now_ns if self._now_ns is None else max(now_ns, self._now_ns)
        self._left = left

    def expect(self, left: int) -> Completion | None:
        """When so many will have ended; None while too little was seen, or too unlike.

        With mean m and variance v of n counts, h stretches see h * m end, give or take the deviation
        sqrt(v * (h + h * h / n)): that of these stretches, and that of the mean. No less is assumed than if
        all ended independently (v >= m). The range is from the h that may be enough to the one that will be.
        """
        if left <= 0:
            return Completion(0.0, 0.0)
        n = len(self._counts)
        if n < _FEWEST_STRETCHES:
            return None
        mean = sum(self._counts) / n
        spread = _DEVIATIONS**2 * max(sum((count - mean) ** 2 for count in self._counts) / (n - 1), mean)
        sure = mean * mean - spread / n
        if sure <= 0:
            return None
        middle = 2 * left * mean + spread
        root = sqrt(max(middle * middle - 4 * sure * left * left, 0.0))
        seconds = self._stretch_ns / _SECOND_NS
        return Completion(2 * left * left / (middle + root) * seconds, (middle + root) / (2 * sure) * seconds)

    def _take(self, took_ns: int, ended: int) -> None:
        """Whatever ended is spread evenly over the time that it took."""
        per_ns = ended / took_ns if took_ns else 0.0
        if not took_ns:
            self._count += ended
        while took_ns:
            part_ns = min(took_ns, self._stretch_ns - self._elapsed_ns)
            took_ns -= part_ns
            self._elapsed_ns += part_ns
            self._count += part_ns * per_ns
            if self._elapsed_ns == self._stretch_ns:
                self._close()

    def _close(self) -> None:
        self._counts.append(self._count)
        self._count, self._elapsed_ns = 0.0, 0
        if len(self._counts) <= _MOST_STRETCHES:
            return
        if 2 * self._stretch_ns > self._longest_ns:
            self._counts.popleft()
            return
        newest = self._counts.pop()
        pairs = zip(*[iter(self._counts)] * 2, strict=True)
        self._counts = deque(map(sum, pairs))
        self._stretch_ns *= 2
        self._count, self._elapsed_ns = newest, self._stretch_ns // 2
