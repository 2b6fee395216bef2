"""Who goes first: among the waiting, and among half-done prompts."""

from __future__ import annotations

import math
from typing import Protocol

from brim.core.request import RequestView, TaskClass


class Ordering(Protocol):
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        """Smaller goes first. Taken once, when the request starts to wait; ties go by arrival."""


class FirstComeFirstServed:
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (view.request.arrival_ns,)


class OnlineFirst:
    """Online by priority and arrival; behind them offline by priority, deadline and arrival."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        request = view.request
        if request.task_class is TaskClass.ONLINE:
            return (0, request.priority, 0, request.arrival_ns)
        deadline = math.inf if request.deadline_ns is None else request.deadline_ns
        return (1, request.priority, deadline, request.arrival_ns)
