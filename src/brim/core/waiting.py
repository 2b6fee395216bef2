"""Requests that wait, in order of a key that stays as it is until time alone changes it."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator

from brim.core.lazy_heap import LazyHeap
from brim.core.policies.ordering import Ordering
from brim.core.request import RequestState, RequestView, TaskClass

Key = tuple[float, ...]
_Change = tuple[int, int, RequestState]  # when its key changes, its sequence number


class WaitingQueue:
    """A sorted list: a look costs nothing, an entry one binary search and one memory move."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._entries: list[tuple[Key, int, RequestState]] = []  # the sequence number decides ties
        self._keys: dict[RequestView, Key] = {}
        self._changes_ns: dict[RequestState, int] = {}  # when the key changes
        self._changes: LazyHeap[_Change] = LazyHeap(
            lambda change: self._changes_ns.get(change[2]) == change[0]
        )
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
        return self._keys[view]

    def count(self, task_class: TaskClass) -> int:
        offline = self._num_offline
        return offline if task_class is TaskClass.OFFLINE else len(self._entries) - offline

    def push(self, state: RequestState, now_ns: int) -> None:
        key = self._ordering.key(state, now_ns)
        self._keys[state] = key
        insort(self._entries, (key, state.arrival_seq, state))
        self._num_offline += state.request.is_offline
        changes_at_ns = self._ordering.changes_at_ns(state, now_ns)
        if changes_at_ns is not None:
            self._changes_ns[state] = changes_at_ns
            self._changes.push((changes_at_ns, state.arrival_seq, state))
            self._note_first_change()

    def remove(self, state: RequestState) -> None:
        """Raises KeyError where the request does not wait."""
        key = self._keys.pop(state)
        del self._entries[bisect_left(self._entries, (key, state.arrival_seq))]
        self._num_offline -= state.request.is_offline
        if self._changes_ns.pop(state, None) is not None:
            self._note_first_change()

    def reorder(self, now_ns: int) -> bool:
        """Gives those a new key whose time has come; whether there were any."""
        changed = False
        while (first := self._changes.first()) is not None and first[0] <= now_ns:
            self.remove(first[2])
            self.push(first[2], now_ns)
            changed = True
        return changed

    def _note_first_change(self) -> None:
        first = self._changes.first()
        self.changes_at_ns = math.inf if first is None else first[0]
