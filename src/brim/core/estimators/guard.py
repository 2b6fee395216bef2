"""How much longer than expected a step may take, as far as decisions count on it."""

from __future__ import annotations

LATE_SHARE = 0.0005  # of steps that may take longer still
RISE = 0.1  # of the guard, with each that does
MOST = 2.0  # and no more, whatever happens


class Guard:
    """`share` of the expected time goes on top; it is learnt, and never below what it started from.

    Every step that takes longer makes it larger, every other one a little smaller: so in the long run as
    many take longer as may, whatever machine and neighbours are like. That is adaptive conformal inference
    (Gibbs and Candes, arXiv 2106.00170) with one number of state.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._least = share

    def observe(self, took_over_expected: float) -> None:
        late = took_over_expected > 1 + self.share
        moved = self.share + RISE * (late - LATE_SHARE)
        self.share = max(min(moved, MOST), self._least)
