"""Time as it is told, so that a history comes out the same whoever else uses the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

STEP_NS, TOKEN_NS = 10_000_000, 50_000  # what a step takes, and each of its tokens besides


class ToldClock:
    """Stands still but for the steps."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000_000

    def passes(self, tokens: int) -> None:
        """A step of so many tokens."""
        self.now_ns += STEP_NS + TOKEN_NS * tokens

    @contextmanager
    def told_to_all(self) -> Iterator[None]:
        """Meanwhile the functions of `time` that tell when something is tell this time."""

        def nanoseconds() -> int:
            return self.now_ns

        def seconds() -> float:
            return self.now_ns / 1e9

        told = {"time": seconds, "monotonic": seconds, "time_ns": nanoseconds, "monotonic_ns": nanoseconds}
        with patch.multiple(time, **told):
            yield
