"""Who gives way when blocks or seats are lacking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from brim.core.policies.ordering import MultiLevelFeedback, OnlineFirst
from brim.core.request import RequestView

_OFTEN = 3  # who gave way so often is spared while there are others


def least_loss(view: RequestView) -> tuple[bool, int]:
    """Smaller gives way first where nobody can go on: the fewest tokens computed, not always the same."""
    return view.num_preemptions >= _OFTEN, view.num_computed_tokens


def _to_come(view: RequestView) -> int:
    """Tokens still to be computed; of an answer that is longer than expected, as many as it has."""
    left = view.expected_tokens - view.num_computed_tokens
    return left if left > 0 else view.num_tokens - view.num_prompt_tokens


class Preempting(Protocol):
    @property
    def for_newcomers(self) -> bool:
        """Whether a running request ever gives way so that a waiting one can enter."""

    @property
    def by_progress(self) -> bool:
        """Whether who gives way to newcomers changes as requests run: then every step needs a decision."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        """Smaller gives way first."""

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        """Whether a running request gives way so that a waiting one can enter."""


class LastComeFirstPreempted:
    """The newest arrival gives way to the running, nobody to the waiting: the oldest always goes on."""

    for_newcomers = by_progress = False

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (-view.request.arrival_ns, -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return False


class OfflineFirst:
    """Who would be admitted last gives way first: offline before online, then the least urgent.

    Offline requests give way to waiting online ones.
    """

    for_newcomers = True
    by_progress = False

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (*(-part for part in OnlineFirst().key(view, now_ns)), -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return running.request.is_offline and not waiting.request.is_offline


class OfflineLeastLoss(OfflineFirst):
    """The same, but of the offline requests the one that loses least work gives way first.

    What the cache held when it first entered is no loss: it is likely to be there again.
    """

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        if not view.request.is_offline:
            return (1, *super().key(view, now_ns))
        return (0, max(view.num_computed_tokens - (view.num_cached_tokens or 0), 0), -view.arrival_seq)


class LeastLossThenLongest(OfflineLeastLoss):
    """The same, and of the online requests the one with the most tokens still to come gives way first."""

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        if view.request.is_offline:
            return super().key(view, now_ns)
        return (1, -view.request.priority, -_to_come(view), -view.arrival_seq)


class LongestRemainingFirst:
    """The one with the most tokens still to come gives way to the running, nobody to the waiting (SRTF)."""

    for_newcomers = by_progress = False

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (-_to_come(view), -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class LowestLevelFirst:
    """Who has had most service gives way, also to a waiting request of a higher level (FastServe)."""

    levels: MultiLevelFeedback

    for_newcomers: ClassVar[bool] = True
    by_progress: ClassVar[bool] = True

    def key(self, view: RequestView, now_ns: int) -> tuple[float, ...]:
        return (-self.levels.level(view), -view.request.arrival_ns, -view.arrival_seq)

    def yields_to(self, running: RequestView, waiting: RequestView) -> bool:
        return self.levels.level(running) > self.levels.level(waiting)
