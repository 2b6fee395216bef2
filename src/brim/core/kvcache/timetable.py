"""How many blocks a set of requests will hold, step by step, if each ends when it is expected to.

Every request writes one token in every step and gives all back at its end, so together they hold most
just before one of the ends. Only those moments are looked at:

    blocks   |        /|
             |   /|  / |   /|
             |  / | /  |  / |            limit: nobody may be promised what lifts a peak over it
             | /  |/   | /  |_____
             +----+----+----+------>  steps
                 ends
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import NamedTuple


class Growth(NamedTuple):
    """One request: at step `t`, until step `until`, it holds `fixed + (phase + t) // block_size` blocks.

    `phase` is a block more than its tokens at step 0: they are rounded up, and a block is given a step ahead.
    """

    until: int
    phase: int
    fixed: int


class Timetable:
    """The ends, soonest first, and what is held just before each. `held` is what is held now."""

    def __init__(self, block_size: int, held: int = 0) -> None:
        self.held = held
        self._block_size = block_size
        self._growths: list[Growth] = []  # in order of their ends
        self._ends: list[int] = []
        self._totals: list[int] = []

    @property
    def first_end(self) -> float:
        """The step until which it holds; from then on, who should have left may still be there."""
        return self._ends[0] if self._ends else math.inf

    @property
    def peak(self) -> int:
        """The most that is held just before an end; 0 where there is none."""
        return max(self._totals, default=0)

    @property
    def unwritten(self) -> int:
        """Blocks that come to what is held until the peak."""
        return max(self.peak - self.held, 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timetable) and vars(self) == vars(other)

    def copy(self) -> Timetable:
        twin = Timetable(self._block_size, self.held)
        twin._growths, twin._ends, twin._totals = self._growths.copy(), self._ends.copy(), self._totals.copy()
        return twin

    def cost(self, growth: Growth, own: int) -> int:
        """How many more blocks must be kept when a request is added that holds `own` already."""
        peak = max(self.peak, self._top_with(growth))
        return max(peak - self.held - own, 0) - self.unwritten

    def add(self, growth: Growth) -> None:
        ends, totals, size, (until, phase, fixed) = self._ends, self._totals, self._block_size, growth
        at = bisect_left(ends, until)
        if at == len(ends) or ends[at] != until:
            totals.insert(at, self._total_at(until))
            ends.insert(at, until)
        insort(self._growths, growth)
        for i in range(at + 1):
            totals[i] += fixed + (phase + ends[i]) // size

    def remove(self, growth: Growth) -> None:
        """Takes out what was added as `growth`."""
        ends, totals, size, (until, phase, fixed) = self._ends, self._totals, self._block_size, growth
        del self._growths[bisect_left(self._growths, growth)]
        at = bisect_left(ends, until)
        for i in range(at + 1):
            totals[i] -= fixed + (phase + ends[i]) // size
        first = bisect_left(self._growths, (until,))
        if first == len(self._growths) or self._growths[first].until != until:
            del ends[at], totals[at]

    def _top_with(self, growth: Growth) -> int:
        """The most that is held until the request ends, if it is added."""
        size, (until, phase, fixed) = self._block_size, growth
        at = bisect_left(self._ends, until)
        top = self._total_at(until) + (phase + until) // size
        for end, total in zip(self._ends[:at], self._totals, strict=False):
            together = total + (phase + end) // size
            if together > top:
                top = together
        return top + fixed

    def _total_at(self, step: int) -> int:
        at = bisect_left(self._ends, step)
        if at < len(self._ends) and self._ends[at] == step:
            return self._totals[at]
        size, still_there = self._block_size, self._growths[bisect_left(self._growths, (step,)) :]
        return sum([fixed + (phase + step) // size for _, phase, fixed in still_there])
