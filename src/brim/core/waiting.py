"""Requests that wait, in order of a key that stays as it is until time alone changes it."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator

from brim.core.policies.ordering import Ordering
from brim.core.request import RequestState, RequestView, TaskClass

Key = tuple[float, ...]


class WaitingQueue:
    """A sorted list: a look costs nothing, an entry one binary search and one memory move."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._entries: list[tuple[Key, int, RequestState]] = []  # the sequence number decides ties
        self._keys: dict[RequestState, Key] = {}
        # (when the key changes, sequence number, request); stale when the request has left or has a new key
        self._changes: list[tuple[int, int, RequestState]] = []
        self._num_offline = 0
        self.changes_at_ns: float = math.inf  # from then on the order may be another one

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, state: object) -> bool:
        return state in self._keys

    def __iter__(self) -> Iterator[RequestState]:
        """In order; the queue must not be changed meanwhile."""
        return (entry[2] for entry in self._entries)

    def starting_at(self, key: Key) -> Iterator[RequestState]:
        """Those with this key or a larger one, in order."""
        for i in range(bisect_left(self._entries, (key,)), len(self._entries)):
            yield self._entries[i][2]

    def key(self, view: RequestView) -> Key:
        """What it is sorted by. Raises KeyError where the request does not wait."""
        return self._keys[view]  # type: ignore[index]

    def count(self, task_class: TaskClass) -> int:
        offline = self._num_offline
        return offline if task_class is TaskClass.OFFLINE else len(self._entries) - offline

    def push(self, state: RequestState, now_ns: int) -> None:
        key = self._ordering.key(state, now_ns)
        self._keys[state] = key
        insort(self._entries, (key, state.arrival_seq, state))
        self._num_offline += state.request.task_class is TaskClass.OFFLINE
        changes_at_ns = self._ordering.changes_at_ns(state, now_ns)
        if changes_at_ns is not None:
            heapq.heappush(self._changes, (changes_at_ns, state.arrival_seq, state))
            self.changes_at_ns = self._changes[0][0]

    def remove(self, state: RequestState) -> None:
        """Raises KeyError where the request does not wait."""
        key = self._keys.pop(state)
        del self._entries[bisect_left(self._entries, (key, state.arrival_seq))]
        self._num_offline -= state.request.task_class is TaskClass.OFFLINE
        while self._changes and self._changes[0][2] not in self._keys:
            heapq.heappop(self._changes)
        self.changes_at_ns = self._changes[0][0] if self._changes else math.inf

    def reorder(self, now_ns: int) -> bool:
        """Gives those a new key whose time has come; whether there were any."""
        changed = False
        while self._changes and self._changes[0][0] <= now_ns:
            state = heapq.heappop(self._changes)[2]
            if state in self._keys:
                self.remove(state)
                self.push(state, now_ns)
                changed = True
        self.changes_at_ns = self._changes[0][0] if self._changes else math.inf
        return changed
