"""Carries decisions out on our own block pool: add, abort, schedule -> plan, commit -> events.

`schedule` may run once more before the step before it is committed (depth 2). `schedule` advances
`num_scheduled_tokens`, `commit` advances `num_computed_tokens`. What ends or is preempted while a step
is in flight has its result dropped, and its blocks count as used until that step is committed: the
device may still be writing them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import takewhile

from brim.core.batch import Batch
from brim.core.board import PoolBoard
from brim.core.config import SchedulerConfig
from brim.core.decide import Decision, Policy, decide
from brim.core.errors import InvariantViolated, RequestRefused
from brim.core.events import (
    Admitted,
    Arrived,
    Event,
    Finished,
    FirstToken,
    Preempted,
    QuietSteps,
    Tokens,
)
from brim.core.flight import Flight
from brim.core.kvcache.manager import KVCacheManager
from brim.core.kvcache.prefix_index import BlockHashing
from brim.core.plan import Chunk, StepPlan, StepResult
from brim.core.policies.named import named
from brim.core.request import FinishReason, Request, RequestState, RequestView, Status
from brim.core.waiting import WaitingQueue


class Scheduler:
    """One model's requests on one KV cache. Not thread-safe: one thread makes all calls.

    `policy` overrides the one that `config.policy` names; `hashing` is how prefixes are recognised.
    """

    def __init__(
        self, config: SchedulerConfig, policy: Policy | None = None, hashing: BlockHashing | None = None
    ) -> None:
        self.config = config
        self.policy = policy or named(config)
        self.kv = KVCacheManager(
            config.num_blocks,
            config.block_size,
            prefix_caching=config.enable_prefix_caching,
            hashing=hashing,
        )
        self.batch = Batch(config.block_size)
        self.waiting = WaitingQueue()
        self._states: dict[str, RequestState] = {}
        self._in_flight: deque[Flight] = deque()
        self._board = PoolBoard(config, self.batch, self.waiting, self.kv, self._in_flight)
        self._released: list[str] = []  # ids the engine has not yet been told to let go
        self._events: list[Event] = []
        self._num_arrivals = 0
        self._num_steps = 0
        self._fed_tick = -1  # the tick for which the decoding requests have their blocks
        self._settled = False  # the last decision was empty, and nothing it rested on has changed

    def __len__(self) -> int:
        """Requests that are not over."""
        return len(self._states)

    def states(self) -> Collection[RequestState]:
        """All requests that are not over."""
        return self._states.values()

    # ---- what the outside tells ------------------------------------------------------------------------

    def add(self, request: Request, now_ns: int) -> None:
        """Lets the request wait. Raises RequestRefused where it could never run."""
        refuse_impossible(request, self.config)
        if request.request_id in self._states:
            raise RequestRefused(
                f"a request {request.request_id!r} is already here", code="duplicate_request_id"
            )
        state = RequestState(request, self._num_arrivals)
        self._num_arrivals += 1
        self._states[request.request_id] = state
        self._wait(state, now_ns)
        self._events.append(Arrived(now_ns, self._num_steps, request))

    def abort(self, request_id: str, now_ns: int, reason: FinishReason = FinishReason.ABORT) -> bool:
        """Ends the request at once; False where it is over already. Its token in flight is dropped."""
        state = self._states.get(request_id)
        if state is None:
            return False
        self._end(state, self._num_steps, now_ns, reason)
        return True

    def take_events(self) -> list[Event]:
        """What has happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    # ---- one step --------------------------------------------------------------------------------------

    def schedule(self, now_ns: int) -> StepPlan:
        """The next step; falsy when there is nothing to run, and then not to be committed.

        Raises InvariantViolated where two steps are in flight already.
        """
        if len(self._in_flight) > 1:
            raise InvariantViolated("two steps are in flight: commit the older one before the next schedule")
        self._feed()
        admitted: Sequence[RequestState] = ()
        chunks: Sequence[Chunk] = ()
        if not self._settled:
            admitted, chunks = self._carry_out(decide(self.policy, self._board, now_ns), now_ns)
        rows = self.batch.rows()
        if not rows and not chunks:
            return StepPlan(self._num_steps, ())
        released, self._released = tuple(self._released), []
        plan = StepPlan(self._num_steps, rows, tuple(chunks), tuple(admitted), released)
        self._in_flight.append(Flight(plan))
        self._num_steps += 1
        self.batch.tick += 1
        for chunk in chunks:
            if chunk.samples:
                self.batch.start_decoding(chunk.state)
        return plan

    def commit(self, plan: StepPlan, result: StepResult, now_ns: int) -> list[Event]:
        """Takes in the result of the oldest step in flight; returns all events since the last call.

        Raises InvariantViolated where `plan` is not that step, or the result is not of its size.
        """
        if not self._in_flight or self._in_flight[0].plan.step_id != plan.step_id:
            raise InvariantViolated(f"step {plan.step_id} is not the oldest step in flight")
        flight = self._in_flight.popleft()
        for request_id, message in result.errors.items():
            self._fail(flight, request_id, message, now_ns)
        for chunk in plan.chunks:
            if chunk.state not in flight.dropped:
                chunk.state.compute(chunk.num_tokens)
                self.kv.publish_computed(chunk.state)
            self._settled = False  # the waiting may hit new blocks
        self._take_tokens(flight, result, now_ns)
        for table in flight.tables:
            self.kv.give_back(table)
            self._settled = False
        self._feed()
        return self.take_events()

    def quiet_steps(self) -> int:
        """How many coming steps repeat the last one, if nothing is told and no token drawn ends a request.

        0 where the next step needs a decision.
        """
        if not self._settled or self._in_flight or self.batch.starved or self._fed_tick != self.batch.tick:
            return 0
        steps = min(self.batch.steps_to_an_end(), self.batch.steps_within(self.kv.available_blocks))
        return steps if self.batch.num_decoding else 0

    def skip(self, token_id: int, ends_ns: Sequence[int]) -> list[Event]:
        """Takes in one quiet step for each of `ends_ns`, at most `quiet_steps`, all rows drawing `token_id`.

        The same as to schedule and commit them one by one.
        """
        rows = self.batch.rows()
        RequestState.extend_each(rows, [token_id] * len(ends_ns))
        for _ in ends_ns:
            self.batch.tick += 1
            self._feed()
        self._events.append(QuietSteps(ends_ns[-1], self._num_steps, rows, token_id, ends_ns))
        self._num_steps += len(ends_ns)
        return self.take_events()

    def check(self) -> None:
        """Verifies the books of batch, queue and KV cache. Raises InvariantViolated. Linear: for tests."""
        running, waiting = list(self.batch), list(self.waiting)
        if len(running) + len(waiting) != len(self._states) or len(running) > self.config.max_num_seqs:
            raise InvariantViolated("running + waiting is not all, or more run than there are seats")
        if any(state.status is not Status.RUNNING for state in running):
            raise InvariantViolated("a request in the batch is not running")
        self.kv.check(running, [table for flight in self._in_flight for table in flight.tables])

    # ---- how ------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Gives every running request a block for its next token, or notes that it starves."""
        hungry = self.batch.starved
        if self._fed_tick != self.batch.tick:
            self.batch.pause_ending()
            hungry = [*hungry, *self.batch.entering_block(self.batch.tick)]
            self._fed_tick = self.batch.tick
        if hungry:
            self.batch.starved = [s for s in hungry if not self.kv.grow(s, s.num_scheduled_tokens + 1)]
            if self.batch.starved:
                self._settled = False

    def _carry_out(self, decision: Decision, now_ns: int) -> tuple[list[RequestState], list[Chunk]]:
        for view in decision.preempt:
            self._preempt(self._state(view), now_ns)
        self._feed()
        for view in decision.pause:
            self.batch.pause(self._state(view))
        wanted = [self._state(view) for view in decision.admit]
        admitted = list(takewhile(lambda state: self._admit(state, now_ns), wanted))
        late = set(wanted[len(admitted) :])
        to_run = [(self._state(view), n) for view, n in decision.chunk_tokens.items()]
        chunks = [self._chunk(state, n) for state, n in to_run if state not in late]
        changes = decision.preempt or decision.pause or wanted or chunks
        self._settled = not changes and not self.batch.catching_up
        return admitted, chunks

    def _state(self, view: RequestView) -> RequestState:
        return self._states[view.request.request_id]

    def _wait(self, state: RequestState, now_ns: int) -> None:
        self.waiting.push(state, self.policy.ordering.key(state, now_ns))
        self._settled = False

    def _admit(self, state: RequestState, now_ns: int) -> bool:
        cached_tokens = self.kv.admit(state)
        if cached_tokens is None:
            return False
        self.waiting.remove(state)
        resumed = state.status is Status.PREEMPTED
        state.admit(cached_tokens)
        self.batch.add(state)
        self._events.append(
            Admitted(now_ns, self._num_steps, state.request.request_id, cached_tokens, resumed)
        )
        return True

    def _preempt(self, state: RequestState, now_ns: int) -> None:
        self.kv.publish_computed(state)
        self._leave_batch(state)
        lost_tokens = state.preempt()
        self._wait(state, now_ns)
        self._events.append(Preempted(now_ns, self._num_steps, state.request.request_id, lost_tokens))

    def _chunk(self, state: RequestState, num_tokens: int) -> Chunk:
        start = state.num_scheduled_tokens
        num_tokens = min(num_tokens, state.num_tokens - start)  # a victim's output may be hit as well
        state.schedule(num_tokens)
        return Chunk(state, start, num_tokens, samples=start + num_tokens == state.num_tokens)

    def _fail(self, flight: Flight, request_id: str, message: str, now_ns: int) -> None:
        state = self._states.get(request_id)
        if state is not None and state not in flight.dropped:
            flight.dropped.add(state)
            self._end(state, flight.plan.step_id, now_ns, FinishReason.ERROR, message)

    def _take_tokens(self, flight: Flight, result: StepResult, now_ns: int) -> None:
        states: Sequence[RequestState] = flight.plan.sampling()
        token_ids = result.token_ids
        if len(states) != len(token_ids):
            raise InvariantViolated(f"{len(token_ids)} tokens came back for {len(states)} requests")
        if flight.dropped:
            kept = [i for i, state in enumerate(states) if state not in flight.dropped]
            states, token_ids = [states[i] for i in kept], [token_ids[i] for i in kept]
        over = RequestState.append_each(states, token_ids)
        for chunk in flight.plan.chunks:
            first = chunk.samples and chunk.state.num_output_tokens == 1
            if first and chunk.state not in flight.dropped:
                request_id = chunk.state.request.request_id
                self._events.append(FirstToken(now_ns, flight.plan.step_id, request_id))
        if states:
            self._events.append(Tokens(now_ns, flight.plan.step_id, states, token_ids, result.logprobs))
        for state in over:
            reason = FinishReason.STOP if state.stopped else FinishReason.LENGTH
            self._end(state, flight.plan.step_id, now_ns, reason)

    def _end(
        self,
        state: RequestState,
        step_id: int,
        now_ns: int,
        reason: FinishReason,
        message: str | None = None,
    ) -> None:
        if state in self.waiting:
            self.waiting.remove(state)
        else:
            if reason is not FinishReason.ERROR:  # then its KV may be garbage
                self.kv.publish_computed(state)
            self._leave_batch(state)
        state.finish()
        request_id = state.request.request_id
        self.kv.forget(request_id)
        del self._states[request_id]
        self._settled = False
        self._events.append(Finished(now_ns, step_id, request_id, reason, state.num_output_tokens, message))

    def _leave_batch(self, state: RequestState) -> None:
        """Out of the batch, its blocks given up: at once, or when the newest step in flight is over."""
        self.batch.remove(state)
        self._released.append(state.request.request_id)
        table = self.kv.detach(state)
        if not self._in_flight:
            self.kv.give_back(table)
            return
        self._in_flight[-1].tables.append(table)
        for flight in self._in_flight:
            flight.dropped.add(state)


def refuse_impossible(request: Request, config: SchedulerConfig) -> None:
    """Raises RequestRefused where the request could not run even alone."""
    prompt, wanted = len(request.prompt_token_ids), request.sampling.max_tokens
    if prompt == 0:
        raise RequestRefused("the prompt is empty: give at least one token", param="prompt")
    if wanted < 1:
        raise RequestRefused(f"max_tokens must be at least 1, not {wanted}", param="max_tokens")
    if prompt + wanted > config.max_model_len:
        raise RequestRefused(
            f"the prompt has {prompt} tokens and {wanted} more were asked for, "
            f"but prompt and output together may have at most {config.max_model_len} tokens: "
            "shorten the prompt or lower max_tokens",
            param="max_tokens" if prompt < config.max_model_len else "prompt",
            code="context_length_exceeded",
        )
