"""A heap whose entries may grow stale: they are dropped when they come up, or when they are too many."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Any)  # orders itself

_FEW = 64


class LazyHeap(Generic[Item]):
    """The smallest item of those that `is_current`. An item that is there twice counts once."""

    __slots__ = ("_is_current", "_items", "_limit")

    def __init__(self, is_current: Callable[[Item], bool]) -> None:
        self._is_current = is_current
        self._items: list[Item] = []
        self._limit = _FEW

    def __len__(self) -> int:
        """Items held, stale ones too; at most about twice the current ones."""
        return len(self._items)

    def push(self, item: Item) -> None:
        heapq.heappush(self._items, item)
        if len(self._items) > self._limit:
            self._items = list(dict.fromkeys(filter(self._is_current, self._items)))
            heapq.heapify(self._items)
            self._limit = max(2 * len(self._items), _FEW)

    def first(self) -> Item | None:
        """The smallest current item; None where there is none."""
        while self._items:
            if self._is_current(self._items[0]):
                return self._items[0]
            heapq.heappop(self._items)
        return None
