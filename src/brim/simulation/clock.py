"""Virtual time: what is due next happens next, and a tie is never left to chance."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from enum import IntEnum


class Order(IntEnum):
    """Of things due at the same nanosecond, the smaller goes first: a host hears of an arrival at once."""

    ARRIVAL = 0
    MARK = 1  # somebody looks at the figures
    STEP = 2


class Clock:
    """Runs actions in order of (time, order, the sequence in which they were announced)."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._stopped = False

    @property
    def next_ns(self) -> float:
        """When the next thing is due; infinity when nothing is."""
        return self._due[0][0] if self._due else math.inf

    def next_but(self, order: Order) -> float:
        """When the next thing of another kind is due; looks at all that is announced."""
        return min((time_ns for time_ns, kind, _, _ in self._due if kind != order), default=math.inf)

    def at(self, time_ns: int, order: Order, action: Callable[[], None]) -> None:
        """Announces an action at `time_ns`, which must not be over."""
        if time_ns < self.now_ns:
            raise ValueError(f"{time_ns} ns is over: it is {self.now_ns} ns")
        heapq.heappush(self._due, (time_ns, order, self._sequence, action))
        self._sequence += 1

    def advance(self, time_ns: int) -> bool:
        """Moves on to `time_ns` without the heap if nothing is due until then; else False."""
        if self._stopped or time_ns >= self.next_ns:
            return False
        self.now_ns = time_ns
        return True

    def puts_off(self, until_ns: int, action: Callable[[], None]) -> bool:
        """Whether `action`, of which nothing shows before `until_ns`, is left for later; here it never is."""
        return False

    def stop(self) -> None:
        """Nothing happens after this."""
        self._stopped = True

    def run(self) -> None:
        """Until nothing is due any more, or somebody stops it."""
        while self._due and not self._stopped:
            self.now_ns, _, _, action = heapq.heappop(self._due)
            action()
