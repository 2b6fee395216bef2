"""How many KV blocks online requests will want soon, from the peaks of what they held of late."""

from __future__ import annotations

import math
from collections import deque

from brim.core.errors import ConfigError

_SECOND_NS = 1_000_000_000


class OnlineDemand:
    """Mean + `deviations` standard deviations of the peaks per sub-window, over a sliding window.

    `forecast_blocks` holds for a whole sub-window, and it does not fall while the peaks rise: as a burst
    arrives, an older one may just be leaving the window. Raises ConfigError where a sub-window would be
    shorter than a nanosecond.
    """

    def __init__(
        self, window_seconds: float = 120.0, num_sub_windows: int = 24, deviations: float = 2.0
    ) -> None:
        if num_sub_windows < 2 or window_seconds * _SECOND_NS < num_sub_windows or deviations < 0:
            raise ConfigError(
                "the online demand needs a window above 0 s, 2 sub-windows or more and 0 deviations or more, "
                f"not {window_seconds} s, {num_sub_windows} and {deviations}"
            )
        self.forecast_blocks = 0
        self._sub_window_ns = int(window_seconds * _SECOND_NS) // num_sub_windows
        self._deviations = deviations
        self._peaks: deque[int] = deque(maxlen=num_sub_windows)
        self._sum = 0
        self._sum_of_squares = 0
        self._blocks = 0  # held since `_now_ns`
        self._peak = 0  # of the sub-window under way
        self._now_ns = 0
        self._ends_ns: int | None = None  # the sub-window under way
        self._judged_ns = 0
        self._covered_ns = 0

    @property
    def coverage(self) -> float:
        """The share of the time in which no more was held than was forecast; 1 before the first forecast."""
        return self._covered_ns / self._judged_ns if self._judged_ns else 1.0

    def observe(self, now_ns: int, blocks: int) -> None:
        """From now on online requests hold so many blocks.

        To be told when that changes, and before `forecast_blocks` is read.
        """
        if self._ends_ns is None:
            self._now_ns, self._ends_ns = now_ns, now_ns + self._sub_window_ns
        if now_ns >= self._ends_ns:
            self._close(now_ns, self._ends_ns)
        self._hold(now_ns)
        self._blocks = blocks
        self._peak = max(self._peak, blocks)

    def _close(self, now_ns: int, ends_ns: int) -> None:
        """Ends the sub-windows that are over; once one peak fills the window, the rest say nothing."""
        over = (now_ns - ends_ns) // self._sub_window_ns + 1
        for i in range(min(over, self._sub_windows + 1)):
            self._hold(ends_ns + i * self._sub_window_ns)
            self._add(self._peak)
            self._peak = self._blocks
        self._ends_ns = ends_ns + over * self._sub_window_ns

    @property
    def _sub_windows(self) -> int:
        return self._peaks.maxlen or 0

    def _hold(self, until_ns: int) -> None:
        if self._peaks:
            held_ns = max(until_ns - self._now_ns, 0)
            self._judged_ns += held_ns
            self._covered_ns += held_ns * (self._blocks <= self.forecast_blocks)
        self._now_ns = max(until_ns, self._now_ns)

    def _add(self, peak: int) -> None:
        rising = bool(self._peaks) and peak > self._peaks[-1]
        if len(self._peaks) == self._sub_windows:
            self._count(self._peaks.popleft(), -1)
        self._peaks.append(peak)
        self._count(peak, 1)
        count = len(self._peaks)
        spread = math.sqrt(count * self._sum_of_squares - self._sum**2)
        coming = math.ceil((self._sum + self._deviations * spread) / count)
        self.forecast_blocks = max(coming, self.forecast_blocks) if rising else coming

    def _count(self, peak: int, sign: int) -> None:
        self._sum += sign * peak
        self._sum_of_squares += sign * peak * peak
