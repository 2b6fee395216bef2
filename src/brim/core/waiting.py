"""The waiting requests, in order of a key that is fixed when a request enters."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from brim.core.request import RequestState, TaskClass

Key = tuple[float, ...]


class WaitingQueue:
    """A sorted list: a look costs nothing, an entry one binary search and one memory move."""

    def __init__(self) -> None:
        self._entries: list[tuple[Key, int, RequestState]] = []  # the sequence number decides ties
        self._keys: dict[RequestState, Key] = {}
        self._num_offline = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, state: RequestState) -> bool:
        return state in self._keys

    def __iter__(self) -> Iterator[RequestState]:
        """In order; the queue must not be changed meanwhile."""
        return (entry[2] for entry in self._entries)

    def count(self, task_class: TaskClass) -> int:
        offline = self._num_offline
        return offline if task_class is TaskClass.OFFLINE else len(self._entries) - offline

    def push(self, state: RequestState, key: Key) -> None:
        self._keys[state] = key
        insort(self._entries, (key, state.arrival_seq, state))
        self._num_offline += state.request.task_class is TaskClass.OFFLINE

    def remove(self, state: RequestState) -> None:
        """Raises KeyError where the request does not wait."""
        key = self._keys.pop(state)
        del self._entries[bisect_left(self._entries, (key, state.arrival_seq))]
        self._num_offline -= state.request.task_class is TaskClass.OFFLINE
