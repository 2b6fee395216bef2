"""Who goes first: among the waiting, among half-done prompts, and among those that wait to generate."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from brim.core.request import RequestView, TaskClass

_SECOND_NS = 1_000_000_000


class Ordering(Protocol):
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        """Smaller goes first. Taken when the request starts to wait; ties go by arrival."""

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        """When time alone will next change the key; None: never."""


class FirstComeFirstServed:
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (view.request.arrival_ns,)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


class OnlineFirst:
    """Online by priority and arrival; behind them offline by priority, deadline and arrival."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        request = view.request
        if request.task_class is TaskClass.ONLINE:
            return (0, request.priority, 0, request.arrival_ns)
        deadline = math.inf if request.deadline_ns is None else request.deadline_ns
        return (1, request.priority, deadline, request.arrival_ns)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


class ShortestRemaining:
    """The fewest tokens still to compute, as expected (SRTF)."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (view.expected_tokens - view.num_computed_tokens,)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class MultiLevelFeedback:
    """Levels by the service a request has had, each twice as long as the one before; inside, by arrival.

    A request enters at the level that its prompt alone would fill: the skip-join multi-level feedback
    queue of FastServe (arXiv 2305.05920), with service counted in tokens.
    """

    first_level_tokens: int = 512

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (self.level(view), view.request.arrival_ns)

    def level(self, view: RequestView) -> int:
        return (max(view.num_tokens, 1) // self.first_level_tokens).bit_length()

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class ByRanges:
    """Time to the deadline, KV held, length: each cut into ranges, the next deciding where one is equal.

    Soonest deadline first; then who holds most, so that it comes free sooner; then the longest. The
    factors and their directions are EconoServe's (arXiv 2411.06364), the ranges our own. A request
    without any target is due after `patience_seconds`, so that it is not overtaken for ever; the first
    deadline range holds those overdue for long.
    """

    deadline_ranges_seconds: tuple[float, ...] = (-60.0, 0.5, 2.0)
    range_tokens: int = 128
    length_ranges: int = 4
    patience_seconds: float = 30.0

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        offline = view.request.task_class is TaskClass.OFFLINE
        deadline = bisect_left(self.deadline_ranges_seconds, (self.due_ns(view) - now_ns) / _SECOND_NS)
        held = view.num_scheduled_tokens // self.range_tokens
        half_done = view.num_scheduled_tokens > 0
        length = view.expected_tokens - view.num_tokens if half_done else view.num_tokens
        return (offline, not half_done, deadline, -held, -self._length_range(length))

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        due_ns = self.due_ns(view)
        borders = [due_ns - int(border * _SECOND_NS) for border in self.deadline_ranges_seconds]
        return min((border_ns for border_ns in borders if border_ns > now_ns), default=None)

    def due_ns(self, view: RequestView) -> int:
        """When the whole answer is due, or its first token where only that has a target."""
        request, slo = view.request, view.request.slo
        if slo.e2e_ns is not None:
            return request.arrival_ns + slo.e2e_ns
        if request.deadline_ns is not None:
            return request.deadline_ns
        if slo.ttft_ns is None:
            return request.arrival_ns + int(self.patience_seconds * _SECOND_NS)
        outputs = view.expected_tokens - view.num_prompt_tokens if view.num_scheduled_tokens else 0
        return request.arrival_ns + slo.ttft_ns + outputs * (slo.tpot_ns or slo.itl_ns or 0)

    def key_of_length(self, key: tuple[float, ...], num_tokens: int) -> tuple[float, ...]:
        """The first key of the same ranges whose requests are surely not longer than `num_tokens`."""
        longest = min((num_tokens + 1) // self.range_tokens - 1, self.length_ranges - 1)
        return (*key[:-1], -longest)

    def same_ranges(self, one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        """Whether the two differ in length only."""
        return one[:-1] == other[:-1]

    def is_urgent(self, key: tuple[float, ...]) -> bool:
        """Whether the deadline is in the range before the last but one border, or over."""
        return key[2] <= len(self.deadline_ranges_seconds) - 2

    def _length_range(self, num_tokens: int) -> int:
        return min(num_tokens // self.range_tokens, self.length_ranges)
