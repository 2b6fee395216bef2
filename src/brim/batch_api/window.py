"""A semaphore that lets the most urgent waiter in first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter


class Window:
    """At most `size` holders at a time; among those who wait, the smallest key is next.

    A holder may bear fewer beside it: while it is in, or first in the queue, no more than its `most` come in.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._bounds: Counter[int] = Counter()  # what the holders bear, each with their number
        self._waiting: list[tuple[tuple[int, ...], int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()

    async def acquire(self, key: tuple[int, ...], most: int | None = None) -> None:
        """`most` counts the holder itself; None is `size`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (key, next(self._ticket), self._bound(most), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # it may have held up those behind it
            else:
                self.release(most)  # the turn had come in the same moment: pass it on
            raise

    def release(self, most: int | None = None) -> None:
        """`most` as it was given to `acquire`."""
        bound = self._bound(most)
        self.held -= 1
        self._bounds[bound] -= 1
        if not self._bounds[bound]:
            del self._bounds[bound]
        self._admit()

    def _bound(self, most: int | None) -> int:
        return self.size if most is None else min(most, self.size)

    def _admit(self) -> None:
        while self._waiting:
            _, _, bound, turn = self._waiting[0]
            if not turn.done():
                if self.held >= min((bound, *self._bounds)):
                    return
                self.held += 1
                self._bounds[bound] += 1
                turn.set_result(None)
            heapq.heappop(self._waiting)
