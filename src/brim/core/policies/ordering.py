"""Who goes first: among the waiting, among half-done prompts, and among those that wait to generate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from brim.core.estimators.pace import Pace
from brim.core.request import RequestView

_SECOND_NS = 1_000_000_000


class Ordering(Protocol):
    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        """Smaller goes first; ties go by arrival. A queue takes it when the request starts to wait."""

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
        return (1, *request.urgency) if request.is_offline else (0, request.priority, 0, request.arrival_ns)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


class ShortestRemaining:
    """The fewest tokens still to compute, as expected (SRTF)."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (view.expected_tokens - view.num_computed_tokens,)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class ShortestUnlessUrgent:
    """Online before offline, by priority; then who can just get its first token in time; then the shortest.

    Of those with less than `urgent_seconds` left, beside what their prompt takes, the one that is due first.
    Else the fewest tokens still expected, where a second of waiting counts as `tokens_per_second` fewer:
    nobody is overtaken for ever. Offline ones are in order of priority, deadline and arrival. `prompt_ns`
    tells what so many prompt tokens take, behind so many; cached ones count, since a key outlives its hits.
    """

    urgent_seconds: float = 0.5
    tokens_per_second: float = 2.0
    prompt_ns: Callable[[int, int], int] = lambda num_tokens, start: 0

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        request = view.request
        if request.is_offline:
            return OnlineFirst().key(view, now_ns)
        due_ns = self._first_due_ns(view)
        if due_ns is not None and due_ns - self._urgent_ns(view) <= now_ns <= due_ns:
            return (0, request.priority, 0, due_ns)
        remaining = view.expected_tokens - view.num_computed_tokens
        aged = request.arrival_ns / _SECOND_NS * self.tokens_per_second
        return (0, request.priority, 1, remaining + aged)

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        due_ns = self._first_due_ns(view)
        if due_ns is None or view.request.is_offline:
            return None
        borders = due_ns - self._urgent_ns(view), due_ns + 1
        return next((at_ns for at_ns in borders if at_ns > now_ns), None)

    def _urgent_ns(self, view: RequestView) -> int:
        start = view.num_scheduled_tokens
        left_ns = self.prompt_ns(max(view.num_prompt_tokens - start, 1), start)
        return int(self.urgent_seconds * _SECOND_NS) + left_ns

    def _first_due_ns(self, view: RequestView) -> int | None:
        ttft_ns = view.request.slo.ttft_ns
        return None if ttft_ns is None or _has_output(view) else view.request.arrival_ns + ttft_ns


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

    Least time left first, beyond what the answer still takes at the present `pace`; then who holds most,
    so that it comes free sooner; then the longest. The factors and their directions are EconoServe's
    (arXiv 2411.06364), the ranges our own. Those that can't meet their deadline any more come last: served
    first, under overload, they would make all others late as well. Of these the shortest goes first, where
    being due a second sooner counts as `tokens_per_second` fewer, so that none of them is overtaken by ever
    newer ones. A request without any target is due after `patience_seconds` and never too late, so that
    it is not overtaken for ever.
    """

    pace: Pace = field(default_factory=Pace)
    time_left_ranges_seconds: tuple[float, ...] = (0.5, 2.0)
    range_tokens: int = 128
    length_ranges: int = 4
    patience_seconds: float = 30.0
    tokens_per_second: float = 1.0

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        offline = view.request.is_offline
        time_left = (self._last_start_ns(view) - now_ns) / _SECOND_NS
        half_done = view.num_scheduled_tokens > 0
        due_ns = self._due_ns(view)
        if due_ns is not None and time_left < 0:
            remaining = view.expected_tokens - view.num_scheduled_tokens
            return (offline, 1, not half_done, 0, 0, remaining + due_ns / _SECOND_NS * self.tokens_per_second)
        held = view.num_scheduled_tokens // self.range_tokens
        length = view.expected_tokens - view.num_tokens if half_done else view.num_tokens
        urgency = bisect_left(self.time_left_ranges_seconds, time_left)
        return (offline, 0, not half_done, urgency, -held, -self._length_range(length))

    def changes_at_ns(self, view: RequestView, now_ns: int) -> int | None:
        last_ns, due_ns = self._last_start_ns(view), self._due_ns(view)
        borders = [last_ns - int(border * _SECOND_NS) for border in self.time_left_ranges_seconds]
        if due_ns is not None:
            borders.append(last_ns + 1)
        return min((border_ns for border_ns in borders if border_ns > now_ns), default=None)

    def key_of_length(self, key: tuple[float, ...], num_tokens: int) -> tuple[float, ...]:
        """The first key of the same ranges whose requests are surely not longer than `num_tokens`."""
        longest = min((num_tokens + 1) // self.range_tokens - 1, self.length_ranges - 1)
        return (*key[:-1], -longest)

    def same_ranges(self, one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        """Whether the two differ in length only."""
        return one[:-1] == other[:-1]

    def is_urgent(self, key: tuple[float, ...]) -> bool:
        """Whether the time left is in the first range, and the deadline can still be met."""
        return key[1] == 0 and key[3] == 0

    def _due_ns(self, view: RequestView) -> int | None:
        """When the answer is due, or its first token where only that has a target and is still to come."""
        request, slo = view.request, view.request.slo
        per_token_ns = slo.tpot_ns or slo.itl_ns
        if slo.e2e_ns is not None:
            return request.arrival_ns + slo.e2e_ns
        if slo.ttft_ns is not None and per_token_ns is not None:
            outputs = view.expected_tokens - view.num_prompt_tokens
            return request.arrival_ns + slo.ttft_ns + outputs * per_token_ns
        if request.deadline_ns is None and slo.ttft_ns is not None and not _has_output(view):
            return request.arrival_ns + slo.ttft_ns
        return request.deadline_ns

    def _last_start_ns(self, view: RequestView) -> int:
        """The latest time from which on it can still be over when it is due, at the present pace."""
        due_ns, request = self._due_ns(view), view.request
        if due_ns is None:
            return request.arrival_ns + int(self.patience_seconds * _SECOND_NS)
        per_token = request.slo.tpot_ns or request.slo.itl_ns
        whole = request.slo.e2e_ns or request.deadline_ns or per_token
        return due_ns - (view.expected_tokens - view.num_tokens if whole else 1) * self.pace.step_ns

    def _length_range(self, num_tokens: int) -> int:
        return min(num_tokens // self.range_tokens, self.length_ranges)


def _has_output(view: RequestView) -> bool:
    return view.num_tokens > view.num_prompt_tokens
