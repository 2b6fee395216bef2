"""How much longer than expected a step may take, as far as decisions count on it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import log

LATE_SHARE = 0.0005  # of steps that may take longer still
RISE = 0.1  # of the guard, with each that does
MOST = 2.0  # and no more, whatever happens

_WINDOW = 512  # latest steps that tell how far apart they lie
_TAIL = 20  # one in so many of them is in the tail
FADE_STEPS = 4000  # in which what late steps have put on top falls to a third, if no more are late
_DOUBT = 0.1  # added for few samples: how far one step of the tail may lie beyond those seen


class Guard:
    """`share` of the expected time goes on top; it is learnt, and never below what it started from.

    First by the spread of the latest steps: their tail, a twentieth, is taken to fall off exponentially, and
    drawn out to the share of steps that may be late (peaks over threshold, Pickands 1975). So it starts with
    caution, and a few hundred steps say what would else take thousands. Real tails may be heavier: every step
    that is late all the same puts more on top, every other one takes a little off that. That is adaptive
    conformal inference (Gibbs and Candes, arXiv 2106.00170), but it also forgets: a bad minute is not to cost
    half an hour, and where the tail is very heavy a few more steps may be late. A step beyond what any guard
    covers says nothing of how large the guard should be, and is left out.
    """

    def __init__(self, least: float) -> None:
        self.share = least
        self._least = least
        self._extra = 0.0
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []

    @property
    def usual(self) -> float:
        """The same, but one step in twenty takes longer still."""
        return max(self._ordered[-self._num_tail], 0.0) if self._ordered else self._least

    @property
    def _num_tail(self) -> int:
        return max(len(self._ordered) // _TAIL, 1)

    def observe(self, took_over_expected: float) -> None:
        excess = took_over_expected - 1
        if excess > MOST:
            return
        falls = RISE * LATE_SHARE + self._extra / FADE_STEPS
        self._extra = max(self._extra + RISE * (excess > self.share) - falls, 0.0)
        self._remember(excess)
        self.share = min(max(self._drawn_out(), self._least) + self._extra, MOST)
        self._extra = min(self._extra, MOST)

    def _remember(self, excess: float) -> None:
        self._latest.append(excess)
        insort(self._ordered, excess)
        if len(self._latest) > _WINDOW:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]

    def _drawn_out(self) -> float:
        """What all but `LATE_SHARE` of the steps stay below, by the latest ones."""
        num_tail = self._num_tail
        first, middle = self._ordered[-num_tail], self._ordered[-(num_tail // 2) - 1]
        beyond = (middle - first) / log(2) + _DOUBT / num_tail
        return first + beyond * log(num_tail / len(self._ordered) / LATE_SHARE)
