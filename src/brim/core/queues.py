"""Everybody who waits: to enter, in one queue or, offline requests, in a pool; and to generate, KV kept.

Who waits to enter may be set aside: it is looked at again when it is brought back.
"""

from __future__ import annotations

from brim.core.kvcache.manager import KVCacheManager
from brim.core.offline.pool import OfflinePool
from brim.core.policies.ordering import Ordering
from brim.core.request import RequestState, TaskClass
from brim.core.waiting import WaitingQueue


class Queues:
    """`pool` is None where all wait to enter in one queue."""

    def __init__(self, ordering: Ordering, pool: OfflinePool | None) -> None:
        self.waiting = WaitingQueue(ordering)
        self.parked = WaitingQueue(ordering)  # they hold KV
        self.pool = pool
        self._aside: set[RequestState] = set()

    def __len__(self) -> int:
        """All who wait to enter, set aside or not."""
        return len(self.waiting) + len(self._aside) + (0 if self.pool is None else len(self.pool))

    def __contains__(self, state: RequestState) -> bool:
        """Whether it waits to enter, set aside or not."""
        return state in self.waiting or state in self._aside or (self.pool is not None and state in self.pool)

    def count(self, task_class: TaskClass) -> int:
        """Requests of the class that wait to enter and are not set aside."""
        if self.pool is None or task_class is TaskClass.ONLINE:
            return self.waiting.count(task_class)
        return self.waiting.count(task_class) + len(self.pool)

    def count_all(self, task_class: TaskClass) -> int:
        """The same, with those set aside. Looks at each of these."""
        return self.count(task_class) + sum(s.request.task_class is task_class for s in [*self._aside])

    def push(self, state: RequestState, kv: KVCacheManager, now_ns: int) -> None:
        """It waits to enter."""
        if self.pool is None or not state.request.is_offline:
            self.waiting.push(state, now_ns)
        else:
            self.pool.add(state, kv.usable_hashes(state))
            kv.forget(state.request.request_id)  # very many may wait, with very long prompts

    def remove(self, state: RequestState) -> None:
        """Raises KeyError where it does not wait to enter."""
        if state in self._aside:
            self._aside.remove(state)
        elif self.pool is not None and state in self.pool:
            self.pool.remove(state)
        else:
            self.waiting.remove(state)

    def set_aside(self, state: RequestState) -> None:
        """Nobody looks at it until it is brought back. Raises KeyError where it does not wait to enter."""
        self.remove(state)
        self._aside.add(state)

    def is_aside(self, state: RequestState | None) -> bool:
        return state in self._aside

    def bring_back(self, state: RequestState, kv: KVCacheManager, now_ns: int) -> None:
        """It waits in its place again. Raises KeyError where it was not set aside."""
        self._aside.remove(state)
        self.push(state, kv, now_ns)

    def check(self) -> None:
        """Verifies the books of the pool. Raises InvariantViolated. Linear: for tests."""
        if self.pool is not None:
            self.pool.check()

    @property
    def changes_at_ns(self) -> float:
        """The time from which on one of them has another order."""
        return min(self.waiting.changes_at_ns, self.parked.changes_at_ns)

    def reorder(self, now_ns: int) -> bool:
        """Whether anybody has another place now."""
        return self.waiting.reorder(now_ns) | self.parked.reorder(now_ns)
