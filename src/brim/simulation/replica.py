"""A replica: a scheduler and a modelled machine, run as an engine loop would run them."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from brim.core.errors import InvariantViolated, RequestRefused
from brim.core.events import Event
from brim.core.plan import StepPlan, StepResult
from brim.core.request import Request
from brim.core.scheduler import Scheduler
from brim.simulation.clock import Clock, Order
from brim.simulation.decodes import Decodes
from brim.simulation.machine import Machine
from brim.simulation.meter import Meter
from brim.simulation.truth import FILLER, Truth

PICOSECONDS = 1000  # in a nanosecond


class Listener(NamedTuple):
    """Whom a replica tells what happens."""

    observe: Callable[[list[Event]], None]
    refuse: Callable[[Request], None]


class _Flight(NamedTuple):
    plan: StepPlan
    result: StepResult
    end_ps: int
    changed: bool  # who runs is not who ran in the step before
    ends: bool  # somebody's last token is drawn


class _Stretch(NamedTuple):
    """Steps one right after the other, each `longer_ps` longer than the one before."""

    start_ps: int
    first_ps: int
    longer_ps: int

    def end_ps(self, steps: int) -> int:
        return self.start_ps + steps * self.first_ps + steps * (steps - 1) // 2 * self.longer_ps

    def end_ns(self, steps: int) -> int:
        return self.end_ps(steps) // PICOSECONDS


class Replica:
    """Tells the scheduler of arrivals and of the time, and gives back what the truth says.

    One turn of the loop: commit the step that is over, take in who has arrived, schedule, until `depth`
    steps are under way. The machine runs one step after the other. Its time is in picoseconds, so that
    the end of a step does not depend on how the steps before were taken; the scheduler is told whole
    nanoseconds. With `skip`, a quiet stretch is taken in at once, as far as nothing else is due before
    its end; that needs depth 1, and steps that are even. `stopwatch` reads the real time in seconds. Uneven
    steps are drawn in the same order in every run of the same `number`.
    """

    def __init__(
        self,
        clock: Clock,
        scheduler: Scheduler,
        machine: Machine,
        truth: Truth,
        listener: Listener,
        stopwatch: Callable[[], float],
        *,
        depth: int = 1,
        skip: bool = True,
        number: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.meter = Meter(scheduler.kv)
        self.schedule_calls = 0
        self.schedule_seconds = 0.0  # of real time
        self._clock = clock
        self._machine = machine
        self._listener = listener
        self._stopwatch = stopwatch
        self._depth = depth
        self._even = machine.unevenness.negligible
        self._draw = random.Random(number).random
        self._skip = skip and depth == 1 and self._even
        self._decodes = Decodes(truth)
        self._lines: dict[int, tuple[int, int]] = {}  # of `Machine.line`
        self._inbox: list[Request] = []
        self._flights: deque[_Flight] = deque()
        self._free_ps = 0  # when the machine has run all it was given
        self._next_step_id = 0
        self._awake = False

    @property
    def inbox(self) -> Sequence[Request]:
        """Requests that the scheduler has not been told of yet."""
        return self._inbox

    def submit(self, request: Request) -> None:
        """A request has arrived; it is told to the scheduler at the next turn."""
        self._inbox.append(request)
        if not self._awake:
            self._awake = True
            self._clock.at(self._clock.now_ns, Order.STEP, self._turns)

    # ---- the loop --------------------------------------------------------------------------------------

    def _turns(self) -> None:
        """Turn after turn, until something else is due before the next one, or nothing is left to do."""
        while True:
            if self._flights and self._flights[0].end_ps // PICOSECONDS == self._clock.now_ns:
                self._commit(self._flights.popleft())
            self._take_in()
            if self._skip and not self._skip_quiet_steps():
                return
            while len(self._flights) < self._depth and self._schedule():
                pass
            if not self._flights:
                self._rest()
                return
            if not self._moves_on(self._flights[0].end_ps // PICOSECONDS):
                return

    def _moves_on(self, end_ns: int) -> bool:
        """To the end of a step, where nothing else is due before; else the next turn is announced."""
        if self._clock.advance(end_ns):
            return True
        self._clock.at(end_ns, Order.STEP, self._turns)
        return False

    def _take_in(self) -> None:
        arrived, self._inbox = self._inbox, []
        for request in arrived:
            try:
                self.scheduler.add(request, self._clock.now_ns)
            except RequestRefused:
                self._listener.refuse(request)

    def _rest(self) -> None:
        self._awake = False
        self._listener.observe(self.scheduler.take_events())
        if len(self.scheduler):
            raise InvariantViolated(
                f"nothing runs and {len(self.scheduler)} requests wait: "
                f"the policy {self.scheduler.policy.name} is stuck"
            )

    def _schedule(self) -> bool:
        """Gives the machine one more step; false where there is nothing to run."""
        now_ns, meter = self._clock.now_ns, self.meter
        reading = None if meter.read_ns == now_ns else meter.read()
        started = self._stopwatch()
        plan = self.scheduler.schedule(now_ns)
        self.schedule_seconds += self._stopwatch() - started
        self.schedule_calls += 1
        if not plan:
            return False
        changed = self._decodes.follow(plan.decodes, plan.step_id, scheduled=True) or bool(plan.chunks)
        if changed:
            if reading is not None:
                meter.enter(now_ns, reading)
            meter.enter(now_ns, meter.read())
        result, ends = self._decodes.draw(plan)
        self._flights.append(_Flight(plan, result, self._run(plan), changed, ends))
        self._next_step_id = plan.step_id + 1
        return True

    def _run(self, plan: StepPlan) -> int:
        """When the machine is done with the step, in picoseconds."""
        tokens, context = len(plan.decodes), self._decodes.context(plan.step_id)
        if plan.chunks or not self._skip:  # only of an even machine is a step of decodes known from its line
            shape = self._machine.shape(plan.chunks, tokens, context)
            took_ps = self._unevenly(self._machine.picoseconds(shape, tokens + len(plan.chunks)))
            tokens = shape.new_tokens
        else:
            fixed, per_context = self._line(tokens)
            took_ps = fixed + per_context * context
        self._free_ps = max(self._free_ps, self._clock.now_ns * PICOSECONDS) + took_ps
        self.meter.steps(1, tokens, took_ps, self._free_ps)
        return self._free_ps

    def _unevenly(self, usual_ps: int) -> int:
        return usual_ps if self._even else round(usual_ps * self._machine.unevenness.at(self._draw()))

    def _line(self, num_decodes: int) -> tuple[int, int]:
        if num_decodes not in self._lines:
            self._lines[num_decodes] = self._machine.line(num_decodes)
        return self._lines[num_decodes]

    def _commit(self, flight: _Flight) -> None:
        now_ns = self._clock.now_ns
        eventful = flight.changed or flight.ends
        if eventful:
            self.meter.enter(now_ns, self.meter.read())
        self._listener.observe(self.scheduler.commit(flight.plan, flight.result, now_ns))
        if eventful:
            self.meter.enter(now_ns, self.meter.read())

    # ---- quiet stretches -------------------------------------------------------------------------------

    def _skip_quiet_steps(self) -> bool:
        """Takes in at once the quiet steps that end before anything else is due.

        The last may run on while requests arrive, who are told of at its end as ever: then the turn is
        over, and false is returned.
        """
        most = self.scheduler.quiet_steps(self._clock.now_ns)
        if not most:
            return True
        step_id, states = self._next_step_id, self.scheduler.batch.rows()
        changed = self._decodes.follow(states, step_id, scheduled=False)
        stretch = self._stretch(step_id, len(states))
        most = min(most, self._decodes.steps_to_an_end(step_id))
        sure = self._sure_steps(stretch, most, len(states))
        if sure and self._clock.puts_off(stretch.end_ns(sure), self._turns):
            return False
        steps = self._steps_in_time(stretch, most)
        if not steps:
            return True
        ends_ns = [stretch.end_ns(n) for n in range(1, steps + 1)]
        after_first = self._metered(ends_ns[0]) if changed else None
        steps = self.scheduler.skip(FILLER, self._clock.now_ns, ends_ns, after_first)
        self._listener.observe(self.scheduler.take_events())
        self._free_ps = stretch.end_ps(steps)
        self.meter.steps(steps, steps * len(states), self._free_ps - stretch.start_ps, self._free_ps)
        self._next_step_id += steps
        return self._moves_on(self._free_ps // PICOSECONDS)

    def _sure_steps(self, stretch: _Stretch, most: int, rows: int) -> int:
        """How many steps show nothing before the end of the last: no order that changes, no lack of blocks.

        One more than the quiet ones: who draws a last token shows it at the end of that step.
        """
        scheduler = self.scheduler
        if rows * (1 + (most + 1) // scheduler.config.block_size) > scheduler.kv.available_blocks:
            return 0
        changes_at_ns = scheduler.changes_at_ns
        if stretch.end_ns(most) < changes_at_ns:
            return most + 1
        return bisect_left(range(1, most + 1), changes_at_ns, key=stretch.end_ns) + 1

    def _stretch(self, step_id: int, rows: int) -> _Stretch:
        fixed, per_context = self._line(rows)
        return _Stretch(
            max(self._free_ps, self._clock.now_ns * PICOSECONDS),
            fixed + per_context * self._decodes.context(step_id),
            per_context * rows,
        )

    def _steps_in_time(self, stretch: _Stretch, most: int) -> int:
        """How many steps, at most `most`, end before something else is due, or begin before an arrival."""
        steps = bisect_left(range(1, most + 1), self._clock.next_ns, key=stretch.end_ns)
        if steps < most and stretch.end_ns(steps + 1) < self._clock.next_but(Order.ARRIVAL):
            steps += 1
        return steps

    def _metered(self, end_ns: int) -> Callable[[], None]:
        """Reads the KV cache before a step that ends at `end_ns`; what is returned does so after it."""
        before = self.meter.read()
        self.meter.enter(self._clock.now_ns, before)

        def after() -> None:
            self.meter.enter(end_ns, before)
            self.meter.enter(end_ns, self.meter.read())

        return after
