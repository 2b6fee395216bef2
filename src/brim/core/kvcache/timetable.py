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
from collections.abc import Iterable
from typing import NamedTuple


class Growth(NamedTuple):
    """One request: at step `t`, until step `until`, it holds `fixed + (phase + t) // block_size` blocks.

    `phase` is a block more than its tokens at step 0: they are rounded up, and a block is given a step ahead.
    """

    until: int
    phase: int
    fixed: int

    def at(self, step: int, block_size: int) -> int:
        return self.fixed + (self.phase + step) // block_size


class Timetable:
    """The ends, soonest first, and what is held just before each. `held` is what is held now."""

    def __init__(self, growths: Iterable[Growth], block_size: int, held: int) -> None:
        self.held = held
        self._block_size = block_size
        self._growths = sorted(growths)
        self._ends: list[int] = []
        self._totals: list[int] = []
        self._sum_up()
        self.peak = max(self._totals, default=0)

    @property
    def first_end(self) -> float:
        """The step until which it holds; from then on, who should have left may still be there."""
        return self._ends[0] if self._ends else math.inf

    @property
    def unwritten(self) -> int:
        """Blocks that come to what is held until the peak."""
        return max(self.peak - self.held, 0)

    def copy(self) -> Timetable:
        twin = Timetable((), self._block_size, self.held)
        twin._growths, twin._ends = self._growths.copy(), self._ends.copy()
        twin._totals, twin.peak = self._totals.copy(), self.peak
        return twin

    def cost(self, growth: Growth, own: int) -> int:
        """How many more blocks must be kept when a request is added that holds `own` already."""
        peak = max(self.peak, self._top_with(growth))
        return max(peak - self.held - own, 0) - self.unwritten

    def add(self, growth: Growth, own: int) -> None:
        self.peak = max(self.peak, self._top_with(growth))
        self.held += own
        at = bisect_left(self._ends, growth.until)
        if at == len(self._ends) or self._ends[at] != growth.until:
            self._totals.insert(at, self._total_at(growth.until))
            self._ends.insert(at, growth.until)
        insort(self._growths, growth)
        for i in range(at + 1):
            self._totals[i] += growth.at(self._ends[i], self._block_size)

    def _top_with(self, growth: Growth) -> int:
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
        still_there = self._growths[bisect_left(self._growths, (step,)) :]
        return sum(fixed + (phase + step) // self._block_size for _, phase, fixed in still_there)

    def _sum_up(self) -> None:
        """From the last end to the first. The rounding of all is found by counting their remainders."""
        size, growths = self._block_size, self._growths[::-1]
        remainders = [0] * size
        whole = 0
        for count, (until, phase, fixed) in enumerate(growths, 1):
            quotient, remainder = divmod(phase, size)
            whole += fixed + quotient
            remainders[remainder] += 1
            if count == len(growths) or growths[count].until != until:
                blocks, rest = divmod(until, size)
                self._ends.append(until)
                self._totals.append(whole + count * blocks + sum(remainders[size - rest :]))
        self._ends.reverse()
        self._totals.reverse()
