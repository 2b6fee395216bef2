"""The running batch as state: a step edits it, it is never rebuilt.

A running request is *decoding* (one token in every step, until something happens), *catching up* (more
than one token behind, or paused: it runs when a decision gives it a chunk) or *parked*. The batch counts
the steps (`tick`); a decoding request's progress is a line over that count, so a quiet step touches no
request, and the requests that enter a new block at a step are found by the step's number alone.

A request that does not run in a step:

    word           meaning                                its KV   who ends it
    waiting        has not entered                        none     a decision admits it
    preempted      gave its blocks up, and waits again    lost     a decision admits it again
    set aside      waits, and no decision looks at it     none     the host brings it back
    paused         sits out; catching up from then on     kept     a decision gives it a chunk
    parked         waits for blocks to generate into      kept     a decision grants them
    starved        lacks the block for its next token     kept     a free block; else a decision finds one,
                                                                   or pauses, parks or preempts it
    hold_decodes   all decodes sit out, for prompts       kept     the next step
    passed over    decodes, but the host did not run it   kept     the host runs it again

To *sit out* is to run no token in a step and keep the KV: all of the last five. *Idle* is said of a step or
an engine, never of a request. In `HostedScheduler.stand_by` it is the scheduler that decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

from brim.core.errors import InvariantViolated
from brim.core.request import RequestState, Status, TaskClass


class DecodeLoad(NamedTuple):
    """What the decodes of a step come to: their number, and the tokens they attend to, their own included."""

    num_decodes: int = 0
    context: int = 0


class DecodeWatch(Protocol):
    """Who is told which requests draw a token in every step."""

    def started(self, state: RequestState, tick: int) -> None:
        """From the step of `tick` on."""

    def stopped(self, state: RequestState) -> None:
        """It doesn't any more: it is paused, parked or out of the batch."""


class Batch:
    def __init__(self, block_size: int, watch: DecodeWatch | None = None) -> None:
        """`watch` is told of online requests."""
        self.tick = 0  # steps scheduled so far; the next step's number
        self.starved: list[RequestState] = []  # running, without a block for the next token
        self._running: dict[RequestState, None] = {}  # dicts as ordered sets: oldest member first
        self._decoding: dict[RequestState, str] = {}  # and the id of each
        self._catching_up: dict[RequestState, None] = {}
        # requests by the ticks at which they write a block's first token, modulo the block size
        self._phases: list[dict[RequestState, None]] = [{} for _ in range(block_size)]
        # decoding requests by the first tick for which they have no token left to draw
        self._ending: dict[int, dict[RequestState, None]] = {}
        self._rows: tuple[RequestState, ...] | None = ()
        self._row_ids: frozenset[str] | None = frozenset()
        self._watch = watch
        # by class: decoding requests, and the sum of their scheduled tokens less the tick
        self._loads = {task_class: [0, 0] for task_class in TaskClass}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._running)

    def __contains__(self, state: object) -> bool:
        return state in self._running

    @property
    def num_decoding(self) -> int:
        return len(self._decoding)

    @property
    def catching_up(self) -> Collection[RequestState]:
        return self._catching_up.keys()

    @property
    def undecided(self) -> bool:
        """Whether anybody runs only by a decision, step for step; not who waits for its last token alone."""
        return bool(self.starved) or any(not state.ending for state in self._catching_up)

    def load(self, task_class: TaskClass) -> DecodeLoad:
        """Of the decoding requests of a class, in the coming step."""
        num_decodes, offsets = self._loads[task_class]
        return DecodeLoad(num_decodes, offsets + num_decodes * (self.tick + 1))

    @property
    def decode_context(self) -> int:
        """Tokens that all decodes of the coming step attend to."""
        return sum([offsets for _, offsets in self._loads.values()]) + len(self._decoding) * (self.tick + 1)

    def rows(self) -> tuple[RequestState, ...]:
        """The decoding requests; the same tuple until the batch is edited."""
        if self._rows is None:
            self._rows = tuple(self._decoding)
        return self._rows

    def row_ids(self) -> frozenset[str]:
        """Of the decoding requests; the same set until the batch is edited."""
        if self._row_ids is None:
            self._row_ids = frozenset(self._decoding.values())
        return self._row_ids

    def add(self, state: RequestState) -> None:
        self._running[state] = self._catching_up[state] = None

    def start_decoding(self, state: RequestState) -> None:
        """From this tick on, every step runs one token of the request."""
        self._catching_up.pop(state, None)
        self._decoding[state] = state.request.request_id
        state.start_decoding(self)
        self._phases[self._phase(state)][state] = None
        self._ending.setdefault(self._end_tick(state), {})[state] = None
        self._rows = self._row_ids = None
        self._count(state, 1)
        if self._watch is not None and not state.request.is_offline:
            self._watch.started(state, self.tick)

    def pause(self, state: RequestState) -> None:
        """The request sits out until a decision gives it a chunk. Nothing happens where it doesn't decode."""
        if state in self._decoding:
            self._stop_decoding(state)
            self._catching_up[state] = None

    def advance(self, state: RequestState, num_tokens: int) -> None:
        """The request is so many tokens further than its steps tell."""
        decodes = state in self._decoding
        if decodes:
            self._stop_decoding(state)
        state.schedule(num_tokens)
        if decodes:
            self.start_decoding(state)

    def park(self, state: RequestState) -> None:
        """The request sits out until it is granted blocks to generate into; see `unpark`."""
        if state in self._decoding:
            self._stop_decoding(state)
        self._catching_up.pop(state, None)
        if state in self.starved:
            self.starved.remove(state)

    def unpark(self, state: RequestState) -> None:
        """The request runs again when a decision gives it a chunk."""
        self._catching_up[state] = None

    def pause_ending(self) -> bool:
        """Pauses those whose last token is in flight: they need no further step. Whether there were any."""
        ending = list(self._ending.get(self.tick, ()))
        for state in ending:
            self.pause(state)
        return bool(ending)

    def remove(self, state: RequestState) -> None:
        """Takes the request out; its own state is changed by the caller."""
        if state in self._decoding:
            self._stop_decoding(state)
        self._catching_up.pop(state, None)
        del self._running[state]
        if state in self.starved:
            self.starved.remove(state)

    def entering_block(self, tick: int) -> Collection[RequestState]:
        """The decoding requests whose token at `tick` is the first of a block."""
        return self._phases[tick % len(self._phases)]

    def steps_to_an_end(self) -> int:
        """Steps for which no decoding request draws the last token that it may."""
        return min(self._ending, default=self.tick + 1) - self.tick - 1

    def check(self, parked: Iterable[RequestState], max_num_seqs: int) -> None:
        """Verifies who is where. Raises InvariantViolated. Linear: for tests."""
        if len(self) > max_num_seqs:
            raise InvariantViolated("more run than there are seats")
        if any(state.status is not Status.RUNNING for state in self):
            raise InvariantViolated("a request in the batch is not running")
        if set(self) - set(self._decoding) - set(self._catching_up) != set(parked):
            raise InvariantViolated("those that neither decode nor catch up are not the parked")
        for task_class in TaskClass:
            decodes = [
                s.num_scheduled_tokens + 1 for s in self._decoding if s.request.task_class is task_class
            ]
            if self.load(task_class) != (len(decodes), sum(decodes)):
                raise InvariantViolated(f"the {task_class} decodes are more or fewer than counted")

    def _count(self, state: RequestState, sign: int) -> None:
        load = self._loads[state.request.task_class]
        load[0] += sign
        load[1] += sign * (state.num_scheduled_tokens - self.tick)

    def _phase(self, state: RequestState) -> int:
        return (self.tick - state.num_scheduled_tokens) % len(self._phases)

    def _end_tick(self, state: RequestState) -> int:
        return self.tick + state.max_num_tokens - 1 - state.num_scheduled_tokens

    def _stop_decoding(self, state: RequestState) -> None:
        self._count(state, -1)
        if self._watch is not None and not state.request.is_offline:
            self._watch.stopped(state)
        end = self._end_tick(state)
        del self._ending[end][state]
        if not self._ending[end]:
            del self._ending[end]
        del self._phases[self._phase(state)][state]
        del self._decoding[state]
        state.stop_decoding()
        self._rows = self._row_ids = None
