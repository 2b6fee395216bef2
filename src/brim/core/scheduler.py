"""Carries decisions out on our own block pool: add, abort, schedule -> plan, commit -> events.

`schedule` may run once more before the step before it is committed (depth 2). `schedule` advances
`num_scheduled_tokens`, `commit` advances `num_computed_tokens`. What ends or is preempted while a step
is in flight has its result dropped, and its blocks count as used until that step is committed: the
device may still be writing them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from brim.core import events
from brim.core.appending import Appender
from brim.core.base_scheduler import BaseScheduler
from brim.core.config import SchedulerConfig
from brim.core.errors import InvariantViolated
from brim.core.flight import Flight
from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.manager import KVCacheManager
from brim.core.kvcache.prefix_index import BlockHashing, CacheObserver
from brim.core.plan import StepPlan, StepResult
from brim.core.policy import Policy
from brim.core.request import FinishReason, RequestState


class Scheduler(BaseScheduler[KVCacheManager]):
    """Plans the steps of an engine that runs what it is told. `hashing` is how prefixes are recognised."""

    def __init__(
        self, config: SchedulerConfig, policy: Policy | None = None, hashing: BlockHashing | None = None
    ) -> None:
        def cache(rule: Eviction, ledger: Ledger, observer: CacheObserver | None) -> KVCacheManager:
            pool = BlockPool(config.num_blocks, rule, observer)
            return KVCacheManager(pool, config.block_size, config.enable_prefix_caching, hashing, ledger)

        super().__init__(config, policy, cache)
        self._appender = Appender()

    def schedule(self, now_ns: int) -> StepPlan:
        """The next step; falsy when there is nothing to run, and then not to be committed.

        Raises InvariantViolated where two steps are in flight already.
        """
        if len(self._in_flight) > 1:
            raise InvariantViolated("two steps are in flight: commit the older one before the next schedule")
        return self._launch(self._prepare(now_ns), now_ns)

    def commit(self, plan: StepPlan, result: StepResult, now_ns: int) -> list[events.Event]:
        """Takes in the result of the oldest step in flight; returns all events since the last call.

        Raises InvariantViolated where `plan` is not that step, or the result is not of its size.
        """
        flight = self._landed(plan, now_ns)
        for request_id, message in result.errors.items():
            self._fail(flight, request_id, message, now_ns)
        self._computed(flight)
        states, token_ids = _wanted(flight, result.token_ids)
        over = self._appender.append(states, token_ids)
        self._drew(flight, events.Tokens(now_ns, plan.step_id, states, token_ids, result.logprobs), over)
        return self._done_with(flight)

    @property
    def changes_at_ns(self) -> float:
        """When time alone next changes anything: an order, or what somebody who decodes asks for."""
        return min(self.queues.changes_at_ns, self._time.changes_at_ns)

    def quiet_steps(self, now_ns: int) -> int:
        """How many coming steps repeat the last one, if nothing is told and no token drawn ends a request.

        0 where the next step needs a decision.
        """
        if self._in_flight or self._fed_tick != self.batch.tick or now_ns >= self.changes_at_ns:
            return 0
        if not self._settled.holds() or self._settled.counts_time or not self.batch.num_decoding:
            return 0
        return self.batch.steps_to_an_end()

    def skip(
        self,
        token_id: int,
        start_ns: int,
        ends_ns: Sequence[int],
        after_first: Callable[[], None] | None = None,
    ) -> int:
        """Takes in quiet steps that end at `ends_ns`, at most `quiet_steps`, all rows drawing `token_id`.

        The same as to schedule and commit them one by one; `after_first` is called between the first and
        the second. Stops when the next step needs a decision; returns how many steps were taken, at least
        one.
        """
        rows, changes_at_ns, steps = self.batch.rows(), self.changes_at_ns, 0
        self._time.step_begins(start_ns, self.kv.online_blocks)
        for steps, end_ns in enumerate(ends_ns, 1):
            self.batch.tick += 1
            hungry = self.batch.entering_block(self.batch.tick)
            if hungry:
                self._give_blocks(hungry)
                self._time.step_begins(end_ns, self.kv.online_blocks)
            if steps == 1 and after_first is not None:
                after_first()
            if not self._settled.holds() or end_ns >= changes_at_ns:
                break
        self._fed_tick = self.batch.tick
        ends_ns = ends_ns[:steps]
        self._time.steps_took(start_ns, ends_ns)
        self._appender.extend(rows, [token_id] * steps)
        self._time.drew(ends_ns[-1])
        self._events.append(events.QuietSteps(ends_ns[-1], self._num_steps, rows, token_id, ends_ns))
        self._num_steps += steps
        return steps

    def _fail(self, flight: Flight, request_id: str, message: str, now_ns: int) -> None:
        """Ends the request of this flight: by now another one may go by its id."""
        for state in (*flight.plan.decodes, *(chunk.state for chunk in flight.plan.chunks)):
            if state.request.request_id == request_id and state not in flight.dropped:
                flight.dropped.add(state)
                self._end(state, flight.plan.step_id, now_ns, FinishReason.ERROR, message)


def _wanted(flight: Flight, token_ids: Sequence[int]) -> tuple[Sequence[RequestState], Sequence[int]]:
    """Who drew a token in the step and is still here to take it, and the tokens."""
    states: Sequence[RequestState] = flight.plan.sampling()
    if len(states) != len(token_ids):
        raise InvariantViolated(f"{len(token_ids)} tokens came back for {len(states)} requests")
    if not flight.dropped:
        return states, token_ids
    kept = [i for i, state in enumerate(states) if state not in flight.dropped]
    return [states[i] for i in kept], [token_ids[i] for i in kept]
