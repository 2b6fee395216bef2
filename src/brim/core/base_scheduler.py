"""What every scheduler does with a decision, whoever carries the step out.

    add, abort   what the outside tells
    _prepare     decides on the coming step, and does all of it but running it
    _launch      the step as it runs, from now on in flight
    _landed, _computed, _drew, _done_with   a step is over

`scheduler.Scheduler` plans steps on a block pool of its own; `hosted.HostedScheduler` steers a host that has
its own blocks and its own loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import takewhile
from typing import Generic, TypeVar

from brim.core import events
from brim.core.batch import Batch
from brim.core.board import SchedulerBoard
from brim.core.config import SchedulerConfig
from brim.core.decide import decide
from brim.core.deciding.spare_time import all_in_time
from brim.core.decision import Decision, Grant
from brim.core.errors import InvariantViolated, RequestRefused
from brim.core.flight import Flight, Intent
from brim.core.kvcache.eviction import Eviction, eviction
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.manager import KVCacheManager
from brim.core.kvcache.prefix_index import CacheObserver
from brim.core.limits import refuse_impossible
from brim.core.offline.pool import OfflinePool
from brim.core.plan import Chunk, StepPlan
from brim.core.policies.named import named
from brim.core.policy import Policy
from brim.core.queues import Queues
from brim.core.request import FinishReason, Request, RequestState, RequestView, Status
from brim.core.settled import Settled
from brim.core.timekeeping import Timekeeper

Cache = TypeVar("Cache", bound=KVCacheManager)


class BaseScheduler(Generic[Cache]):
    """One model's requests on one KV cache. Not thread-safe: one thread makes all calls.

    `policy` overrides the one that `config.policy` names. `cache` makes the KV cache of the rule of eviction,
    the ledger, and whoever is to be told what can be found in it.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        policy: Policy | None,
        cache: Callable[[Eviction, Ledger, CacheObserver | None], Cache],
    ) -> None:
        self.config = config
        self.policy = policy or named(config)
        pool = None if self.policy.planning is None else OfflinePool()
        self._time = Timekeeper(self.policy, pool)
        self.batch = Batch(config.block_size, self._time.watch)
        self.queues = Queues(self.policy.ordering, pool)
        ledger = Ledger(config.block_size, self.batch, buffer_steps=self.policy.loan_buffer_steps)
        prefixes = None if pool is None else pool.prefixes
        self.kv = cache(eviction(self.policy.evicting, prefixes), ledger, prefixes)
        self._states: dict[str, RequestState] = {}
        self._in_flight: deque[Flight] = deque()
        self._board = SchedulerBoard(config, self.batch, self.queues, self.kv, self._in_flight)
        self._released: list[str] = []  # ids the engine has not yet been told to let go
        self._events: list[events.Event] = []
        self._num_arrivals = self._num_steps = 0
        self._fed_tick = -1  # the tick for which the decoding requests have their blocks
        self.allocation_failures = 0  # times that a running request lacked the block for its next token
        self._settled = Settled(self.policy, self.batch, self.queues, self._time, config.max_num_seqs)

    def __len__(self) -> int:
        """Requests that are not over."""
        return len(self._states)

    def states(self) -> Collection[RequestState]:
        return self._states.values()

    # ---- what the outside tells ------------------------------------------------------------------------

    def add(self, request: Request, now_ns: int) -> None:
        """Lets the request wait. Raises RequestRefused where it could never run."""
        self._arrived(self._new(request), now_ns)

    def _new(self, request: Request) -> RequestState:
        refuse_impossible(request, self.config)
        if request.request_id in self._states:
            raise RequestRefused(
                f"a request {request.request_id!r} is already here", code="duplicate_request_id"
            )
        state = self._states[request.request_id] = RequestState(request, self._num_arrivals)
        self._num_arrivals += 1
        return state

    def _arrived(self, state: RequestState, now_ns: int) -> None:
        self._wait(state, now_ns)
        self._events.append(events.Arrived(now_ns, self._num_steps, state.request))

    def abort(self, request_id: str, now_ns: int, reason: FinishReason = FinishReason.ABORT) -> bool:
        """Ends the request at once; False where it is over already. Its token in flight is dropped."""
        state = self._states.get(request_id)
        if state is None:
            return False
        self._end(state, self._num_steps, now_ns, reason)
        return True

    def take_events(self) -> list[events.Event]:
        """What has happened since the last call, oldest first."""
        self._events, told = [], self._events
        return told

    def check(self) -> None:
        """Verifies the books of batch, queues and KV cache. Raises InvariantViolated. Linear: for tests."""
        if len(self.batch) + len(self.queues) != len(self._states):
            raise InvariantViolated("running + waiting is not all")
        self.batch.check(self.queues.parked, self.config.max_num_seqs)
        self.queues.check()
        self.kv.check(self.batch, [table for flight in self._in_flight for table in flight.tables])

    # ---- one step --------------------------------------------------------------------------------------

    def _prepare(self, now_ns: int) -> Intent:
        """Decides on the coming step, and does all of it but running it."""
        self._feed()
        if now_ns >= self.queues.changes_at_ns and self.queues.reorder(now_ns):
            self._settled.disturb()
        self._time.step_begins(now_ns, self.kv.online_blocks)
        if not self._settled.holds():
            return self._decide(now_ns)
        if not self._settled.counts_time:
            return Intent(quiet=True)
        return Intent() if self._all_in_time(now_ns) else self._decide(now_ns)

    def _launch(self, intent: Intent, now_ns: int) -> StepPlan:
        rows = () if intent.hold_decodes else self.batch.rows()
        chunks = [Chunk.scheduled(state, num_tokens) for state, num_tokens in intent.to_run]
        if not (rows or chunks):
            return StepPlan(self._num_steps, ())
        shape = self._time.shape(self.batch, rows, chunks)
        if not intent.hold_decodes:  # else no line of progress moves on
            self.batch.tick += 1
        released, self._released = tuple(self._released), []
        plan = StepPlan(self._num_steps, rows, tuple(chunks), tuple(intent.admitted), released)
        self._in_flight.append(Flight(plan, now_ns, shape, quiet=intent.quiet))
        self._num_steps += 1
        for chunk in chunks:
            if chunk.samples:
                self._prompt_done(chunk.state, now_ns)
        return plan

    def _landed(self, plan: StepPlan, now_ns: int) -> Flight:
        """The oldest step in flight, over now. Raises InvariantViolated where `plan` is not that step."""
        if not self._in_flight or self._in_flight[0].plan.step_id != plan.step_id:
            raise InvariantViolated(f"step {plan.step_id} is not the oldest step in flight")
        flight = self._in_flight.popleft()
        self._time.step_took(flight.start_ns, now_ns, None if flight.quiet else flight.shape)
        return flight

    def _computed(self, flight: Flight) -> None:
        """The step's chunks are in the KV cache."""
        for chunk in flight.plan.chunks:
            if chunk.state not in flight.dropped:
                chunk.state.compute(chunk.start + chunk.num_tokens, caught_up=chunk.samples)
                self.kv.publish_computed(chunk.state)
            self._settled.disturb()  # the waiting may hit new blocks

    def _drew(self, flight: Flight, tokens: events.Tokens, over: Iterable[RequestState]) -> None:
        """The step's tokens are known to their requests; of some it was the last one."""
        now_ns, step_id = tokens.now_ns, tokens.step_id
        for chunk in flight.plan.chunks:
            first = chunk.samples and chunk.state.num_output_tokens == 1
            if first and chunk.state not in flight.dropped:
                self._events.append(events.FirstToken(now_ns, step_id, chunk.state.request.request_id))
                self._time.first_token(chunk.state, now_ns, self.batch.tick)
        if tokens.states:
            self._events.append(tokens)
        self._time.drew(now_ns)
        for state in over:
            reason = FinishReason.STOP if state.stopped else FinishReason.LENGTH
            self._end(state, step_id, now_ns, reason)

    def _done_with(self, flight: Flight) -> list[events.Event]:
        """What was given up during the step comes free; returns all events since the last call."""
        for table in flight.tables:
            self.kv.give_back(table)
            self._settled.disturb()
        self._feed()
        return self.take_events()

    # ---- how ------------------------------------------------------------------------------------------

    def _all_in_time(self, now_ns: int) -> bool:
        """Whether the time asks for no decision where nothing else does."""
        return all_in_time(self.policy, self._board, now_ns)

    def _feed(self) -> None:
        """Gives every running request a block for its next token, or notes that it starves."""
        hungry = self.batch.starved
        if self._fed_tick != self.batch.tick:
            if self.batch.pause_ending():
                self._settled.disturb()  # they leave tokens to others
            hungry = [*hungry, *self.batch.entering_block(self.batch.tick)]
            self._fed_tick = self.batch.tick
        if hungry:
            self._give_blocks(hungry)

    def _give_blocks(self, hungry: Iterable[RequestState]) -> None:
        self.batch.starved = self.kv.feed(hungry)
        if self.batch.starved:
            self._settled.disturb()

    def _decide(self, now_ns: int) -> Intent:
        while True:
            decision = decide(self.policy, self._board, now_ns)
            intent = self._carry_out(decision, now_ns)
            gave_way = decision.preempt or decision.park
            if intent.to_run or not gave_way or self.batch.rows() or self._in_flight or self._settled.holds():
                return intent
            # nobody runs, but some gave way: now others can

    def _carry_out(self, decision: Decision, now_ns: int) -> Intent:
        self.allocation_failures += len(self.batch.starved)
        for view in decision.preempt:
            self._preempt(self._state(view), now_ns)
        self._feed()
        for view in decision.pause:
            self.batch.pause(self._state(view))
        for view in decision.park:
            self._park(self._state(view), now_ns)
        wanted = [self._state(view) for view in decision.admit]
        admitted = list(takewhile(lambda state: self._admit(state, now_ns), wanted))
        left_out = set(wanted[len(admitted) :])
        for view, grant in decision.grants.items():
            if view not in left_out:
                self._grant(self._state(view), grant)
        chunks = [(self._state(view), n) for view, n in decision.chunk_tokens.items() if view not in left_out]
        changes = any((decision.preempt, decision.pause, decision.park, decision.grants, wanted, chunks))
        if decision.miss is not None:
            self._events += self._time.miss(decision.miss, now_ns, self._num_steps)
        self._settled.decided(empty=not changes)
        return Intent(admitted, chunks, decision.hold_decodes and len(chunks) > 0)

    def _state(self, view: RequestView) -> RequestState:
        return self._states[view.request.request_id]

    def _wait(self, state: RequestState, now_ns: int) -> None:
        state.expect(self.policy.expecting.output_tokens(state))
        self._settled.disturb()
        self.queues.push(state, self.kv, now_ns)

    def _prompt_done(self, state: RequestState, now_ns: int) -> None:
        if self.policy.decoupled and state not in self.kv.ledger:
            self._park(state, now_ns)
        else:
            self._start_decoding(state)
            self.kv.ledger.disturb(state)

    def _park(self, state: RequestState, now_ns: int) -> None:
        self.batch.park(state)
        self.kv.ledger.release(state)
        state.expect(self.policy.expecting.output_tokens(state))
        self.queues.parked.push(state, now_ns)
        self._settled.disturb()

    def _start_decoding(self, state: RequestState) -> None:
        self.batch.start_decoding(state)
        if self._fed_tick != self.batch.tick:
            return  # it is fed with all others
        if state.ending:
            self.batch.pause(state)
        elif not self.kv.grow(state, state.num_scheduled_tokens + 1):
            self.batch.pause(state)
            self.batch.starved.append(state)

    def _grant(self, state: RequestState, grant: Grant) -> None:
        """Promises or lends the blocks; a request that waited for them generates from this step on."""
        state.expect(grant.output_tokens)
        if self.policy.promising.binding:
            self.kv.promise(state, grant.blocks, guest=grant.guest)
        if state in self.queues.parked:
            self.queues.parked.remove(state)
            self._start_decoding(state)
        else:
            self._feed()

    def _admit(self, state: RequestState, now_ns: int) -> bool:
        cached_tokens = self.kv.admit(state)
        if cached_tokens is None:
            return False
        self.queues.remove(state)
        request_id, resumed = state.request.request_id, state.status is Status.PREEMPTED
        state.admit(cached_tokens)
        self.batch.add(state)
        self._time.admitted(state, cached_tokens)
        self._events.append(events.Admitted(now_ns, self._num_steps, request_id, cached_tokens, resumed))
        return True

    def _preempt(self, state: RequestState, now_ns: int) -> None:
        self.kv.publish_computed(state)
        self._leave_batch(state)
        lost_tokens = state.preempt()
        self._wait(state, now_ns)
        self._events.append(events.Preempted(now_ns, self._num_steps, state.request.request_id, lost_tokens))

    def _end(
        self, state: RequestState, step_id: int, now_ns: int, reason: FinishReason, why: str | None = None
    ) -> None:
        if state in self.queues:
            self.queues.remove(state)
        else:
            if reason is not FinishReason.ERROR:  # then its KV may be garbage
                self.kv.publish_computed(state)
            self._leave_batch(state)
        state.finish()
        request_id = state.request.request_id
        self._time.ended(state)
        self.kv.forget(request_id)
        del self._states[request_id]
        self._settled.disturb()
        num_tokens = state.num_output_tokens
        self._events.append(events.Finished(now_ns, step_id, request_id, reason, num_tokens, why))
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.policy.expecting.observe(state.request, num_tokens)

    def _leave_batch(self, state: RequestState) -> None:
        """Out of the batch, its blocks given up: at once, or when the newest step in flight is over."""
        self.batch.remove(state)
        if state in self.queues.parked:
            self.queues.parked.remove(state)
        self._released.append(state.request.request_id)
        table = self.kv.detach(state)
        if not self._in_flight:
            self.kv.give_back(table)
            return
        self._in_flight[-1].tables.append(table)
        for flight in self._in_flight:
            flight.dropped.add(state)
