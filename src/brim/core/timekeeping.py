"""Tells a policy's estimators what steps took, what online requests do and hold, and the pool the time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from brim.core.batch import Batch
from brim.core.estimators.slack import Miss
from brim.core.estimators.step_time import StepShape, shape_of
from brim.core.events import MissPredicted
from brim.core.offline.pool import OfflinePool
from brim.core.plan import Chunk
from brim.core.policy import Policy
from brim.core.request import RequestState, TaskClass


class Timekeeper:
    """Costs nothing where the policy asks for no time."""

    def __init__(self, policy: Policy, pool: OfflinePool | None = None) -> None:
        self.watch = None if policy.timing is None else policy.timing.watch
        self._pool = pool
        self._timing = policy.timing
        self._output_tokens = policy.expecting.output_tokens
        self._pace = policy.pace
        self._headroom = policy.headroom
        self._free_ns = 0  # when the last step ended
        self._missing: set[str] = set()  # requests of which it was told that they will be late

    def shape(self, batch: Batch, rows: Sequence[RequestState], chunks: Sequence[Chunk]) -> StepShape | None:
        """Of the coming step; None where nobody asks."""
        if self._timing is None:
            return None
        return shape_of(chunks, len(rows), batch.decode_context if rows else 0)

    def step_begins(self, now_ns: int, online_blocks: int) -> None:
        """Online requests hold so many blocks. Before a decision, which itself changes nothing."""
        if self.watch is not None:
            self.watch.arrivals.forget(now_ns)
        if self._pool is not None:
            self._pool.note_oldest(now_ns)
        if self._headroom is not None:
            self._headroom.demand.observe(now_ns, online_blocks)

    def step_took(self, start_ns: int, end_ns: int, shape: StepShape | None) -> None:
        """From `start_ns`, or from when the step before ended."""
        took_ns = end_ns - max(start_ns, self._free_ns)
        self._free_ns = end_ns
        if self._pace is not None:
            self._pace.observe(took_ns)
        if self._timing is not None:
            self._timing.watch.committed(end_ns)
            if shape is not None:
                self._timing.steps.observe(shape, took_ns)

    def steps_took(self, start_ns: int, ends_ns: Sequence[int]) -> None:
        """The same for quiet steps one right after the other."""
        if self._pace is not None:
            for end_ns in ends_ns[:-1]:
                self.step_took(start_ns, end_ns, None)
                start_ns = end_ns
        self.step_took(start_ns, ends_ns[-1], None)

    @property
    def changes_at_ns(self) -> float:
        """When due times change though no request does anything but go on."""
        return math.inf if self.watch is None else self.watch.spreads_at_ns

    def drew(self, now_ns: int) -> None:
        """The requests have the tokens of the steps that were over by then."""
        if self.watch is not None:
            self.watch.spread(now_ns, self._output_tokens)

    def counts(self, batch: Batch, offline_waiting: int) -> bool:
        """Whether the time limits offline work, so that what runs may change with every step."""
        return self._timing is not None and bool(offline_waiting or batch.load(TaskClass.OFFLINE).num_decodes)

    def admitted(self, state: RequestState, cached_tokens: int) -> None:
        if self.watch is not None:
            self.watch.admitted(state, cached_tokens)

    def adopted(self, state: RequestState, now_ns: int) -> None:
        if self.watch is not None:
            self.watch.adopted(state, now_ns)

    def first_token(self, state: RequestState, now_ns: int, tick: int) -> None:
        if self.watch is not None:
            self.watch.first_token(state, now_ns, tick)

    def ended(self, state: RequestState) -> None:
        self._missing.discard(state.request.request_id)
        if self.watch is not None:
            self.watch.ended(state)

    def miss(self, miss: Miss, now_ns: int, step_id: int) -> list[MissPredicted]:
        """The event of a predicted miss, once for each request."""
        if miss.request_id in self._missing:
            return []
        self._missing.add(miss.request_id)
        return [MissPredicted(now_ns, step_id, *miss)]
