"""How long a step takes at present: what a rule needs to know how soon an answer can be over."""

from __future__ import annotations

_WEIGHT = 5  # a new step counts for 1/2**5: the last 50 steps or so decide


class Pace:
    """A moving mean of step times, in whole nanoseconds: equal histories give equal means."""

    def __init__(self) -> None:
        self.step_ns = 0  # 0: nothing is known yet

    def observe(self, took_ns: int) -> None:
        """A step took so long."""
        if self.step_ns == 0:
            self.step_ns = took_ns
        else:
            self.step_ns += (took_ns - self.step_ns) >> _WEIGHT
