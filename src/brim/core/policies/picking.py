"""Which waiting request is offered a place next, given what is left of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from brim.core.policies.ordering import ByRanges
from brim.core.request import RequestView


class Queue(Protocol):
    """The waiting requests in order of the policy's `ordering`."""

    def __iter__(self) -> Iterator[RequestView]: ...
    def __contains__(self, view: object) -> bool: ...

    def starting_at(self, key: tuple[float, ...]) -> Iterator[RequestView]:
        """Those with this key or a larger one."""

    def key(self, view: RequestView) -> tuple[float, ...]: ...


class Room(Protocol):
    """What is left while a decision is made."""

    @property
    def tokens(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def refused(self) -> bool:
        """Whether the request that was offered last did not fit."""


class Picking(Protocol):
    def candidates(self, waiting: Queue, room: Room) -> Iterator[RequestView]:
        """Candidates one by one; each is admitted or refused before the next one is asked for."""


class InOrder:
    """Strictly in order: nobody overtakes, or a large request would starve."""

    def candidates(self, waiting: Queue, room: Room) -> Iterator[RequestView]:
        for view in waiting:
            yield view
            if room.refused:
                return


@dataclass(frozen=True, slots=True)
class LongestFit:
    """In order; where the next one does not fit, the longest prompt of the same ranges that does.

    One binary search: inside equal ranges the queue is sorted by length. Nobody overtakes a request of
    the most urgent range.
    """

    ordering: ByRanges

    def candidates(self, waiting: Queue, room: Room) -> Iterator[RequestView]:
        for view in waiting:
            yield view
            if room.refused:
                break
        else:
            return
        stuck = waiting.key(view)
        shorter = self.ordering.key_of_length(stuck, room.blocks * room.block_size)
        if self.ordering.is_urgent(stuck) or shorter <= stuck:
            return
        for view in waiting.starting_at(shorter):
            if not self.ordering.same_ranges(waiting.key(view), stuck):
                return
            yield view
            if room.refused:
                return


@dataclass(frozen=True, slots=True)
class NearestFit:
    """The request whose two demands, tokens and blocks, lie nearest to what is left of both.

    Multi-resource packing as in MultiRes: it looks at every waiting request for each place.
    """

    def candidates(self, waiting: Queue, room: Room) -> Iterator[RequestView]:
        left = list(waiting)
        while left:
            nearest = min(left, key=lambda view: (self._distance(view, room), view.arrival_seq))
            left.remove(nearest)
            yield nearest
            if room.refused:
                return

    def _distance(self, view: RequestView, room: Room) -> float:
        tokens, free = view.num_tokens, max(room.tokens, 1)
        blocks, free_blocks = -(-view.expected_tokens // room.block_size), max(room.blocks, 1)
        if blocks > free_blocks:
            return math.inf
        return math.hypot(1 - tokens / free, 1 - blocks / free_blocks)
