"""The clock of one replica among many: it runs when somebody wants to see what the replica has done."""

from __future__ import annotations

import math
from collections.abc import Callable

from brim.simulation.clock import Clock, Order


class LocalClock(Clock):
    """Runs one replica up to a moment, and knows when something of it will next show.

    A stretch of steps in which nobody starts or ends is put off until its end, or until a request arrives
    and cuts it short. So replicas that nothing happens to cost nothing, and the others' arrivals don't cut
    their stretches.
    """

    def __init__(self) -> None:
        super().__init__()
        self._turn: tuple[int, Callable[[], None]] | None = None  # a replica announces one at a time
        self._until_ns = 0
        self._quiet_until_ns = 0
        self._eager = False

    @property
    def next_ns(self) -> float:
        """Up to where it runs: somebody may tell the replica something then."""
        return self._until_ns

    @property
    def shows_ns(self) -> float:
        """When something next happens that others may see; infinity for an idle replica."""
        return math.inf if self._turn is None else max(self._turn[0], self._quiet_until_ns)

    def next_but(self, order: Order) -> float:
        return self._until_ns

    def at(self, time_ns: int, order: Order, action: Callable[[], None]) -> None:
        self._turn = (time_ns, action)

    def advance(self, time_ns: int) -> bool:
        if self._stopped or time_ns >= self._until_ns:
            return False
        self.now_ns = time_ns
        return True

    def puts_off(self, until_ns: int, action: Callable[[], None]) -> bool:
        if self._eager or until_ns < self._until_ns:
            return False
        self._quiet_until_ns = until_ns
        self._turn = (self.now_ns, action)
        return True

    def run_to(self, time_ns: int) -> None:
        """All turns up to and at `time_ns`; a quiet stretch that goes on is put off."""
        self._eager = False
        self._run(time_ns + 1)
        self._rest(time_ns)

    def run_before(self, time_ns: int) -> None:
        """All turns before `time_ns`, and a stretch that was put off as far as its steps end before."""
        self._eager, self._until_ns = True, time_ns
        if self._turn is not None and self._quiet_until_ns and self._turn[0] == time_ns:
            self._take()
        self._run(time_ns)
        self._rest(time_ns)

    def _run(self, until_ns: int) -> None:
        self._until_ns = until_ns
        while self._turn is not None and self._turn[0] < until_ns and not self._stopped:
            if self._quiet_until_ns >= until_ns and not self._eager:
                return
            self._take()

    def _take(self) -> None:
        assert self._turn is not None
        (self.now_ns, action), self._turn = self._turn, None
        self._quiet_until_ns = 0
        action()

    def _rest(self, time_ns: int) -> None:
        if self._turn is None:
            self.now_ns = max(self.now_ns, time_ns)
