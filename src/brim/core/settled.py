"""Whether the coming step needs a decision: a step costs what changed, and mostly nothing did."""

from __future__ import annotations

from brim.core.batch import Batch
from brim.core.policy import Policy
from brim.core.queues import Queues
from brim.core.request import TaskClass
from brim.core.timekeeping import Timekeeper


class Settled:
    """Holds while a new decision would be empty: the last one was, and what it rested on has not changed.

    Or there is nobody to decide on. With offline work it also depends on the clock (`counts_time`): then
    `all_in_time` is asked in every step.
    """

    def __init__(
        self, policy: Policy, batch: Batch, queues: Queues, time: Timekeeper, max_num_seqs: int
    ) -> None:
        self._by_progress = policy.preempting.by_progress
        self._batch = batch
        self._queues = queues
        self._time = time
        self._max_num_seqs = max_num_seqs
        self._last_was_empty = False

    def disturb(self) -> None:
        """Something has changed that a decision rests on."""
        self._last_was_empty = False

    def decided(self, *, empty: bool) -> None:
        restless = self._waits_for_time() or (self._by_progress and len(self._queues))
        self._last_was_empty = empty and not (restless or self._batch.undecided)

    def holds(self) -> bool:
        """Looks again whether there is anybody to decide on, and if not, takes that for an empty decision."""
        if not self._last_was_empty:
            waiting = self._queues.waiting or self._queues.parked
            self._last_was_empty = not (waiting or self._batch.undecided or self._waits_for_time())
        return self._last_was_empty

    @property
    def counts_time(self) -> bool:
        return self._time.counts(self._batch, self._queues.count(TaskClass.OFFLINE))

    def _waits_for_time(self) -> bool:
        """Whether somebody who waits might be let in, or go first, for no other reason than the time."""
        if not self.counts_time:
            return False
        has_seat = len(self._batch) < self._max_num_seqs
        return bool(self._queues.waiting or self._queues.parked or (has_seat and self._queues.pool))
