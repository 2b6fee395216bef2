"""What time is in a benchmark that runs an engine in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from unittest.mock import patch


class Clock(Protocol):
    """Seconds; only differences mean anything."""

    def seconds(self) -> float: ...

    def idle_until(self, at: float) -> None:
        """Called with nothing to compute until then."""


class WallClock:
    """Real time, in which whoever shares the machine makes some steps several times longer than others."""

    def seconds(self) -> float:
        return time.perf_counter()

    def idle_until(self, at: float) -> None:
        time.sleep(max(at - self.seconds(), 0.0))


class ProcessorClock:
    """Runs while this process computes, and jumps where it would wait: as on a machine of its own.

    For an engine on the CPU with one thread. Time on another device is not seen.
    """

    def __init__(self) -> None:
        self._processor_seconds = time.process_time  # the real one
        self._skipped = 0.0

    def seconds(self) -> float:
        return self._processor_seconds() + self._skipped

    def idle_until(self, at: float) -> None:
        self._skipped += max(at - self.seconds(), 0.0)

    @contextmanager
    def told_to_all(self) -> Iterator[None]:
        """Meanwhile the functions of `time` tell this time, on from what it was."""
        start, day, monotonic = self.seconds(), time.time(), time.monotonic()

        def passed() -> float:
            return self.seconds() - start

        seconds = {
            "time": lambda: day + passed(),
            "monotonic": lambda: monotonic + passed(),
            "perf_counter": lambda: monotonic + passed(),
        }
        nanoseconds = {f"{name}_ns": lambda tell=tell: round(1e9 * tell()) for name, tell in seconds.items()}
        with patch.multiple(time, **seconds, **nanoseconds):
            yield
