"""The scheduler of a host that owns its loop and its blocks: we decide, it runs, we note what it ran.

    order     decides on the coming step: whom the host shall let in, who runs how many tokens
    ran       takes in what the host really scheduled, be it more, less or something else
    accepted  takes in tokens that the host guessed, where it guesses
    ended     takes in a step's end: the host has appended the tokens and knows who is over

Between `order` and `ran` the host carries the step out; it is told at once whom to preempt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from brim.core import events
from brim.core.base_scheduler import BaseScheduler
from brim.core.config import SchedulerConfig
from brim.core.decide import decide
from brim.core.errors import InvariantViolated
from brim.core.estimators.step_time import shape_of
from brim.core.flight import Flight, Intent
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.hosted import Host, HostedCache
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.prefix_index import CacheObserver
from brim.core.plan import Chunk, StepPlan
from brim.core.policy import Policy
from brim.core.request import FinishReason, Request, RequestState


class Orders(NamedTuple):
    """What the host shall do. Let exactly `admit` in, in this order; nobody else who waits may enter.

    `tokens`: an upper bound for requests that would otherwise run more; 0: sit this step out, blocks kept.
    """

    admit: Sequence[str] = ()
    tokens: Mapping[str, int] = {}


class Foreseen(NamedTuple):
    """Orders that were not given, all tokens they come to, and how long that step might take."""

    orders: Orders
    scheduled: Mapping[str, int]
    step_ns: int | None  # None where the policy does not ask how long steps take


class HostedScheduler(BaseScheduler[HostedCache]):
    """Steers a `Host`, which carries the steps out."""

    def __init__(self, config: SchedulerConfig, host: Host, policy: Policy | None = None) -> None:
        def cache(rule: Eviction, ledger: Ledger, observer: CacheObserver | None) -> HostedCache:
            return HostedCache(host, config.block_size, config.enable_prefix_caching, rule, ledger)

        super().__init__(config, policy, cache)
        self._host = host
        self._intent = Intent()
        self._passed_over: set[RequestState] = set()  # by the host, of those that decode
        self.deviations = 0  # steps in which the host did not do what it was told

    @property
    def observer(self) -> CacheObserver | None:
        """Whom the host shall tell which prefixes can be found; None where nobody asks."""
        return None if self.queues.pool is None else self.queues.pool.prefixes

    def close(self) -> None:
        """The last call, also between `order` and `ran`: hits kept for newcomers go back to the host."""
        self.kv.close()

    def check(self) -> None:
        super().check()
        if self._in_flight:
            return  # the host's numbers may hold guesses
        for state in self.batch:
            theirs = self._host.num_computed_tokens(state.request.request_id)
            if state.num_computed_tokens != theirs:
                raise InvariantViolated(f"{state} has computed {theirs} tokens, by the host")

    def add(self, request: Request, now_ns: int) -> None:
        self._learn_of(request, now_ns)

    def adopt(self, request: Request, now_ns: int) -> None:
        """A request that the host was running before we came; no step may be in flight."""
        state = self._learn_of(request, now_ns)
        self._take_over(state)
        self._let_in(state, 0, now_ns, cached=False)

    def _learn_of(self, request: Request, now_ns: int) -> RequestState:
        state = self._new(request)
        state.share(self._host.token_ids(request.request_id))
        self._arrived(state, now_ns)
        if state.num_output_tokens:
            self._time.adopted(state, now_ns)
        return state

    def set_aside(self, request_id: str, now_ns: int) -> None:
        """A request that waits can't run before it is brought back.

        `now_ns` is not used here: a journal notes it. Raises InvariantViolated where the request runs, or is
        unknown.
        """
        state = self._known(request_id)
        if state not in self.queues:
            raise InvariantViolated(f"{request_id!r} does not wait: it can't be set aside")
        self.queues.set_aside(state)
        self._settled.disturb()

    def is_aside(self, request_id: str) -> bool:
        return self.queues.is_aside(self._states.get(request_id))

    def is_offline(self, request_id: str) -> bool:
        """False for one that is not here."""
        state = self._states.get(request_id)
        return state is not None and state.request.is_offline

    def bring_back(self, request_id: str, now_ns: int) -> None:
        """It can run now. Nothing happens where it was not set aside."""
        if self.is_aside(request_id):
            self.queues.bring_back(self._states[request_id], self.kv, now_ns)
            self._settled.disturb()

    def stand_by(self, now_ns: int) -> None:
        """In place of `order`, where the host decides on the coming step alone. A journal notes `now_ns`."""
        self._feed()

    def order(self, now_ns: int) -> Orders:
        """Decides on the coming step, however many are in flight."""
        self._intent = intent = self._without_starved(self._prepare(now_ns))
        return self._as_orders(intent)

    def _without_starved(self, intent: Intent) -> Intent:
        """Pauses whoever still lacks a block: the host's victims may have freed fewer than expected."""
        starved = self.batch.starved
        if not starved:
            return intent
        for state in starved:
            self.batch.pause(state)
        return intent._replace(to_run=[(state, n) for state, n in intent.to_run if state not in starved])

    def foresee(self, now_ns: int) -> Foreseen:
        """What `order` would say, while the host goes its own way: nothing of it is carried out."""
        self._feed()
        self.queues.reorder(now_ns)
        self._time.step_begins(now_ns, self.kv.online_blocks)
        decision = decide(self.policy, self._board, now_ns)
        to_run = [(self._state(view), n) for view, n in decision.chunk_tokens.items()]
        admitted = [self._state(view) for view in decision.admit]
        self._settled.disturb()
        intent = Intent(admitted, to_run, decision.hold_decodes and len(to_run) > 0)
        leaving = {*decision.preempt, *decision.pause, *decision.park}
        rows = () if intent.hold_decodes else [s for s in self.batch.rows() if s not in leaving]
        scheduled = {state.request.request_id: n for state, n in [*((s, 1) for s in rows), *to_run]}
        return Foreseen(self._as_orders(intent), scheduled, self._predicted_ns(rows, to_run))

    def offline_tokens(self, scheduled: Mapping[str, int]) -> int:
        """Of what runs or would run, the tokens of offline requests."""
        of = self._states
        return sum([n for i, n in scheduled.items() if of[i].request.is_offline])

    def newest_step_ns(self) -> int | None:
        """What the newest step in flight is predicted to take; None where nobody asks how long steps take."""
        shape = self._in_flight[-1].shape if self._in_flight else None
        timing = self.policy.timing
        return None if timing is None or shape is None else timing.steps.nanoseconds(shape)

    def _predicted_ns(
        self, rows: Sequence[RequestState], to_run: Sequence[tuple[RequestState, int]]
    ) -> int | None:
        if self.policy.timing is None:
            return None
        chunks = [Chunk(state, state.num_scheduled_tokens, n, False) for state, n in to_run]
        context = sum([state.num_scheduled_tokens + 1 for state in rows])
        return self.policy.timing.steps.nanoseconds(shape_of(chunks, len(rows), context))

    def _as_orders(self, intent: Intent) -> Orders:
        tokens = {state.request.request_id: 0 for state in self._sitting_out(intent)}
        entering = set(intent.admitted)
        for state, num_tokens in intent.to_run:
            start = 0 if state in entering else state.num_scheduled_tokens  # a host may find fewer hits
            if num_tokens < state.num_tokens - start:
                tokens[state.request.request_id] = num_tokens
            else:
                tokens.pop(state.request.request_id, None)
        return Orders([state.request.request_id for state in intent.admitted], tokens)

    def _sitting_out(self, intent: Intent) -> list[RequestState]:
        """Who must be told to run nothing, unless `intent` gives it a chunk.

        Not those whose last token is in flight, nor those passed over: the host waits for their tokens
        and knows when they go on. Offline ones are told all the same, where time is limited.
        """
        passed_over = self._passed_over.difference(self.batch.starved)
        if self.policy.timing is not None:
            passed_over = {state for state in passed_over if not state.request.is_offline}
        catching_up = [s for s in self.batch.catching_up if s not in passed_over and not s.ending]
        out = [*catching_up, *self.queues.parked]
        return [*out, *self.batch.rows()] if intent.hold_decodes else out

    def ran(self, scheduled: Mapping[str, int], preempted: Collection[str], now_ns: int) -> StepPlan:
        """What the host scheduled, request by request, and whom it preempted of its own accord.

        Returns the step, falsy when nothing runs; it is to be ended where it is not. Raises
        InvariantViolated where the host runs a request that we don't know.
        """
        intent, self._intent = self._intent, Intent()
        self.kv.stepped()
        if self._passed_over:
            here = [state for state in self._passed_over if state in self.batch]
            self._passed_over = {state for state in here if state.request.request_id not in scheduled}
        for state in self.batch.starved:
            if state.request.request_id in scheduled:  # the host had a block for it
                self.kv.catch_up(state, state.num_scheduled_tokens + scheduled[state.request.request_id])
        if preempted or not self._as_told(intent, scheduled):
            self.deviations += 1
            intent = self._follow(intent, scheduled, preempted, now_ns)
        else:
            for state in intent.admitted:
                self._let_in(state, scheduled[state.request.request_id], now_ns)
        run = [(state, scheduled[state.request.request_id]) for state, _ in intent.to_run]
        return self._launch(intent._replace(to_run=run), now_ns)

    def _as_told(self, intent: Intent, scheduled: Mapping[str, int]) -> bool:
        """Whether those run that should; a chunk may be shorter."""
        rows = () if intent.hold_decodes else self.batch.rows()
        if len(scheduled) != len(rows) + len(intent.to_run):
            return False
        if rows and not scheduled.keys() >= self.batch.row_ids():
            return False
        if any(state.request.request_id not in scheduled for state in intent.admitted):
            return False
        chunks = [scheduled.get(state.request.request_id, 0) for state, _ in intent.to_run]
        return all(chunks) and sum(scheduled.values()) == len(rows) + sum(chunks)

    def _follow(
        self, intent: Intent, scheduled: Mapping[str, int], preempted: Collection[str], now_ns: int
    ) -> Intent:
        """Brings our books to what the host did, and returns that."""
        entered = self._entered(intent, scheduled, preempted, now_ns)
        for request_id in scheduled:
            state = self._states[request_id]
            if state in self.queues.parked:
                self.queues.parked.remove(state)
                self.batch.unpark(state)
            self.kv.catch_up(state, state.num_scheduled_tokens + scheduled[request_id])
            if state in self.batch.catching_up and state.num_scheduled_tokens >= state.num_tokens:
                self.batch.start_decoding(state)  # from a token that is still in flight
        for state in self.batch.rows():
            if intent.hold_decodes or scheduled.get(state.request.request_id) != 1:
                self.batch.pause(state)
                if not intent.hold_decodes and state.request.request_id not in scheduled:
                    self._passed_over.add(state)
        rows = set(self.batch.rows())
        running = [(self._states[i], n) for i, n in scheduled.items()]
        self._settled.disturb()
        return Intent(entered, [(state, n) for state, n in running if state not in rows])

    def _entered(
        self, intent: Intent, scheduled: Mapping[str, int], preempted: Collection[str], now_ns: int
    ) -> list[RequestState]:
        """Whom the host let in, by our orders or not; all others that it does not run are left out."""
        for state in intent.admitted:
            if state.request.request_id not in scheduled:
                self._leave_out(state, now_ns)
        for state in self._in_order(preempted):
            if state in self.batch and state not in intent.admitted:
                self._preempt(state, now_ns)
        entered = [state for state in intent.admitted if state in self.batch]
        for state in [self._known(i) for i in scheduled]:
            if state not in self.batch:
                self._take_over(state)
                entered.append(state)
        for state in entered:
            self._let_in(state, scheduled[state.request.request_id], now_ns)
        return entered

    def _known(self, request_id: str) -> RequestState:
        if request_id not in self._states:
            raise InvariantViolated(f"the host speaks of {request_id!r}, of which it did not tell")
        return self._states[request_id]

    def _admit(self, state: RequestState, now_ns: int) -> bool:
        """Keeps a seat and blocks for it: the host has still to let it in."""
        if self.kv.admit(state) is None:
            return False
        self.queues.remove(state)
        self.batch.add(state)
        return True

    def _leave_out(self, state: RequestState, now_ns: int) -> None:
        """The host has not let it in: it waits as if that had not been ordered."""
        self.batch.remove(state)
        self.kv.detach(state)
        self._wait(state, now_ns)

    def _take_over(self, state: RequestState) -> None:
        """The host lets it in of its own accord."""
        self.queues.remove(state)
        self.kv.take_over(state)
        self.batch.add(state)

    def _let_in(self, state: RequestState, num_scheduled: int, now_ns: int, *, cached: bool = True) -> None:
        """The host has let it in, and ran so many tokens of it; those before were `cached`, or its own work.

        Cached may be more than we knew of: prefixes that others compute in this very step.
        """
        request_id, resumed = state.request.request_id, state.num_preemptions > 0
        start = self._host.num_computed_tokens(request_id) - num_scheduled
        state.admit(start, cached=cached)
        self.kv.ledger.disturb(state)
        if cached:
            self._time.admitted(state, start)
        num_cached = start if cached else 0
        self._events.append(events.Admitted(now_ns, self._num_steps, request_id, num_cached, resumed))

    def drawing(self) -> Sequence[RequestState]:
        """Who draws a token in the oldest step in flight, and is still here to take it."""
        return _still_here(self._in_flight[0])

    def accepted(self, guessed: Mapping[str, int]) -> None:
        """Of the tokens that the host guessed ahead, so many of each request proved right in the oldest step.

        To be told before `ended`: the host has appended them, beside the token that each request drew.
        """
        for request_id, num_tokens in guessed.items():
            state = self._states.get(request_id)
            if state is None or state not in self.batch or state in self._in_flight[0].dropped:
                continue
            self.batch.advance(state, num_tokens)
            if not self.kv.grow(state, state.num_scheduled_tokens):
                self.kv.catch_up(state, state.num_scheduled_tokens)
            if state.ending:
                self.batch.pause(state)
            elif not self.kv.grow(state, state.num_scheduled_tokens + 1) and state not in self.batch.starved:
                self.batch.pause(state)
                self.batch.starved.append(state)
            self._settled.disturb()

    def ended(self, plan: StepPlan, over: Collection[str], now_ns: int) -> list[events.Event]:
        """The oldest step in flight is over, and so are these requests; returns all events since then.

        Raises InvariantViolated where `plan` is not that step.
        """
        flight = self._landed(plan, now_ns)
        self._computed(flight)
        drew = _still_here(flight)
        done = self._in_order(over)
        with_token = set(done).intersection(drew)
        tokens = events.Tokens(now_ns, plan.step_id, drew, [0] * len(drew), {})  # the host has them
        self._drew(flight, tokens, [state for state in done if state in with_token])
        for state in done:
            if state not in with_token:
                reason = FinishReason.LENGTH if state.num_output_tokens else FinishReason.ABORT
                self._end(state, self._num_steps, now_ns, reason)
        return self._done_with(flight)

    def _in_order(self, request_ids: Collection[str]) -> list[RequestState]:
        """Those of them that are here, by arrival: a host may tell of them in any order."""
        here = [self._states[i] for i in request_ids if i in self._states]
        return sorted(here, key=lambda state: state.arrival_seq)


def _still_here(flight: Flight) -> Sequence[RequestState]:
    """Who drew a token in the step, and is still here to take it."""
    drew = flight.plan.sampling()
    return drew if not flight.dropped else [state for state in drew if state not in flight.dropped]
