"""A semaphore that lets the most urgent waiter in first."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class Window:
    """At most `size` holders at a time; among those who wait, the smallest key is next."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: list[tuple[tuple[int, ...], int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()

    @property
    def held(self) -> int:
        return self.size - self._free

    async def acquire(self, key: tuple[int, ...]) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (key, next(self._ticket), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn had come in the same moment: pass it on
                self.release()
            raise

    def release(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
