"""A whole trace in parts of equal length: a few are simulated, the others read off between them by load."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random
from typing import NamedTuple

from brim.planning.demand import busiest, work_tokens
from brim.planning.question import Load
from brim.workloads.trace import NANOSECONDS, Trace, from_zero

PARTS = 24
LEAST_PART_NS, MOST_PART_NS = 60 * NANOSECONDS, 3600 * NANOSECONDS
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the parts by their load
WARM_NS = 30 * NANOSECONDS
STRETCHES = 24

Points = Sequence[tuple[float, float]]


class Part(NamedTuple):
    """The requests from `first` to `last` of the trace, that one left out; `rate` is their work a second."""

    start_ns: int
    end_ns: int
    first: int
    last: int
    rate: float

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / NANOSECONDS

    @property
    def num_requests(self) -> int:
        return self.last - self.first


class Parts:
    """24 parts, but no part shorter than a minute or longer than an hour."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        requests, end_ns = trace.requests, trace.requests[-1].arrival_ns + 1
        self.end_ns = end_ns
        self.width_ns = min(max(-(-end_ns // PARTS), LEAST_PART_NS), MOST_PART_NS)
        self._arrivals = [r.arrival_ns for r in requests]
        self.all: list[Part] = []
        for start_ns in range(0, end_ns, self.width_ns):
            until_ns = min(start_ns + self.width_ns, end_ns)
            first, last = (bisect_left(self._arrivals, ns) for ns in (start_ns, until_ns))
            work = sum(work_tokens(r) for r in requests[first:last])
            rate = work * NANOSECONDS / (until_ns - start_ns)
            self.all.append(Part(start_ns, until_ns, first, last, rate))

    def chosen(self) -> list[Part]:
        """At even steps from the least to the most loaded; an empty part is never one of them."""
        parts = self._by_load()
        return [parts[i] for i in sorted({round(share * (len(parts) - 1)) for share in SHARES})]

    def spread(self, count: int) -> list[Part]:
        """So many, one from the middle of each of as many equal groups by load; all where there are fewer."""
        parts = self._by_load()
        count = min(count, len(parts))
        return [parts[(2 * i + 1) * len(parts) // (2 * count)] for i in range(count)]

    def _by_load(self) -> list[Part]:
        return sorted((part for part in self.all if part.num_requests), key=lambda part: part.rate)

    def busiest(self, part: Part, most: int) -> Trace:
        """The busiest `most` requests in a row of a part, or all of it; from 0 on."""
        whole = replace(self.trace, requests=self.trace.requests[part.first : part.last])
        return busiest(whole, most)

    def busiest_time(self, part: Part, length_ns: int, warm_ns: int) -> Trace:
        """What arrives in `length_ns`, which begin at 0: after its first `warm_ns` the most work of the part.

        At least one request of the part is behind the warm-up. It may go on behind the part; it ends before
        the trace does, and may begin before it.
        """
        latest_ns = self.end_ns - length_ns
        begins = [min(ns - warm_ns, latest_ns) for ns in self._arrivals[part.first : part.last]]
        low = bisect_left(self._arrivals, begins[0])
        high = bisect_left(self._arrivals, begins[-1] + length_ns)
        sums = [0, *accumulate(work_tokens(r) for r in self.trace.requests[low:high])]

        def work(begin_ns: int) -> int:
            first = bisect_left(self._arrivals, begin_ns + warm_ns)
            last = bisect_left(self._arrivals, begin_ns + length_ns)
            return sums[last - low] - sums[first - low]

        begin_ns = max(begins, key=work)
        first, last = (bisect_left(self._arrivals, ns) for ns in (begin_ns, begin_ns + length_ns))
        requests = self.trace.requests[first:last]
        moved = [r._replace(arrival_ns=r.arrival_ns - begin_ns) for r in requests]
        return replace(self.trace, requests=moved)

    def stretches(
        self, load: Load, most: int, seed: int, warm_ns: int = WARM_NS, count: int = STRETCHES
    ) -> list[tuple[Part, Load]]:
        """So many, `most` requests in all, from parts of every load; the whole trace where that is more."""
        everything = most >= len(self.trace)
        chosen = [part for part in self.all if part.num_requests] if everything else self.spread(count)
        each = len(self.trace) if everything else max(most // len(chosen), 1)
        return [(part, self.anywhere(part, each, load, seed + part.first, warm_ns)) for part in chosen]

    def anywhere(self, part: Part, most: int, load: Load, seed: int, warm_ns: int = WARM_NS) -> Load:
        """`most` requests in a row from anywhere in the part, or all of it, behind those that warm up.

        What arrives in the `warm_ns` before is simulated and does not count.
        """
        count = min(most, part.num_requests)
        first = part.first + Random(seed).randint(0, part.num_requests - count)
        begin_ns = max(self._arrivals[first] - warm_ns, 0)
        warm = bisect_left(self._arrivals, begin_ns)
        requests = self.trace.requests[warm : first + count]
        trace = from_zero(self.trace, requests)
        measured_ns = self._arrivals[first] - requests[0].arrival_ns
        return replace(load, trace=trace, measured_from_ns=measured_ns)


def line(known: Points, x: float) -> float:
    """On straight lines between the points, sorted by x; beyond them what the last one says."""
    place = bisect_left(known, (x,))
    if place in (0, len(known)):
        return known[min(place, len(known) - 1)][1]
    (low, few), (high, many) = known[place - 1], known[place]
    return few + (many - few) * (x - low) / (high - low)
