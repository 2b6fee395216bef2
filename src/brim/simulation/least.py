"""The least number for which something holds, in few tries."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil


def least_that(holds: Callable[[int], bool], near: int, most: int) -> int | None:
    """The least number from 1 on for which `holds`, once true always true; None if none up to `most`.

    Begins at `near` and steps away from it by doubling steps, then halves what lies between.
    """
    low, high, step = 0, None, 1
    at = min(max(near, 1), most)
    while True:
        if holds(at):
            high = at
            if at == low + 1:
                return at
            at = max(at - step, low + 1) if low == 0 else ceil((low + high) / 2)
        else:
            low = at
            if low == most:
                return None
            at = min(at + step, most) if high is None else ceil((low + high) / 2)
        step *= 2
        if high is not None and low + 1 == high:
            return high
