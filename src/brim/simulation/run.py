"""simulate(trace, setup) -> Run: one trace, one machine, one scheduler, until the last token is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from brim.core.config import SchedulerConfig
from brim.core.events import Event
from brim.core.policy import Policy
from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler
from brim.metrics.recorder import ClassMetrics, Recorder, exact
from brim.metrics.samples import Samples
from brim.simulation.clock import Clock, Order
from brim.simulation.garbage import collected_seldom
from brim.simulation.machine import Machine
from brim.simulation.meter import Totals
from brim.simulation.replica import Listener, Replica
from brim.simulation.targets import Targets
from brim.simulation.truth import STOPS, Fillers, TraceHashing, Truth, refuse_unchained
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Setup:
    """What a trace is run on.

    `max_output_tokens` is what every user asks for at most; 0: all that `config.max_model_len` leaves. With
    `exact`, each asks for just its answer, as load clients do: then the scheduler knows that it is no longer.
    `policy` overrides the one that `config.policy` names. Figures are of the requests that arrive, and
    the rates of what happens, from `measure_from_ns` to `measure_until_ns` (None: the end). At `stop_ns`
    the run ends, whoever is under way; None: when all have ended.
    """

    config: SchedulerConfig
    machine: Machine
    policy: Policy | None = None
    targets: Targets = field(default_factory=Targets)
    max_output_tokens: int = 0
    depth: int = 1
    skip: bool = True
    measure_from_ns: int = 0
    measure_until_ns: int | None = None
    stop_ns: int | None = None
    exact: bool = False

    def max_tokens(self, prompt_tokens: int) -> int:
        """What a user with such a prompt asks for; 1 where there is no room, and the request is refused."""
        return self.max_output_tokens or max(self.config.max_model_len - prompt_tokens, 1)

    def asked_tokens(self, request: TraceRequest) -> int:
        """What the user of this request asks for at most."""
        if self.exact:
            return max(self.cut(request).output_tokens, 1)
        return self.max_tokens(request.input_tokens)

    def cut(self, request: TraceRequest) -> TraceRequest:
        """The same, its answer no longer than what is asked for."""
        most = self.max_tokens(request.input_tokens)
        return request if request.output_tokens <= most else request._replace(output_tokens=most)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything counted by one moment."""

    now_ns: int
    totals: Totals
    allocation_failures: int
    preemptions: int
    finished: dict[TaskClass, int]
    met: dict[TaskClass, int]  # finished within all its targets
    output_tokens: dict[TaskClass, int]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it. Seconds of `wall` are real ones; all others are virtual."""

    setup: Setup
    by_class: dict[TaskClass, ClassMetrics[Samples]]
    others: dict[TaskClass, ClassMetrics[Samples]]  # of requests that don't count
    start: Snapshot
    end: Snapshot
    schedule_calls: int
    schedule_wall_seconds: float
    wall_seconds: float


def simulate(
    trace: Trace,
    setup: Setup,
    *,
    observe: Callable[[list[Event]], None] | None = None,
    stopwatch: Callable[[], float] = perf_counter,
) -> Run:
    """Runs the whole trace; `observe` hears of all events as they happen."""
    started = stopwatch()
    with collected_seldom():
        world = _World(trace, setup, observe, stopwatch)
        world.clock.run()
    return world.run(stopwatch() - started)


class _World:
    def __init__(
        self,
        trace: Trace,
        setup: Setup,
        observe: Callable[[list[Event]], None] | None,
        stopwatch: Callable[[], float],
    ) -> None:
        self.clock = Clock()
        self._trace = trace
        self._setup = setup
        self._observe = observe
        self._recorder = Recorder(exact, self._counts, self._judged)
        self._sampling: dict[int, SamplingParams] = {}
        config = setup.config
        hashing = None
        if config.enable_prefix_caching:
            refuse_unchained(trace)
            hashing = TraceHashing(trace, config.block_size, config.max_model_len)
        self._replica = Replica(
            self.clock,
            Scheduler(config, setup.policy, hashing),
            setup.machine,
            Truth(trace),
            Listener(self._hear, self._recorder.refuse),
            stopwatch,
            depth=setup.depth,
            skip=setup.skip,
        )
        self._end_ns = 0
        self._marks: list[Snapshot] = []
        for mark_ns in (setup.measure_from_ns, setup.measure_until_ns):
            if mark_ns is not None:
                self.clock.at(mark_ns, Order.MARK, lambda: self._marks.append(self._snapshot()))
        if setup.stop_ns is not None:
            self.clock.at(setup.stop_ns, Order.MARK, self.clock.stop)
        self._await_arrival(0)

    def run(self, wall_seconds: float) -> Run:
        self.clock.now_ns = self._end_ns
        if len(self._marks) < 2:
            self._marks.append(self._snapshot())
        start, end = self._marks
        replica = self._replica
        return Run(
            self._setup,
            self._recorder.by_class,
            self._recorder.others,
            start,
            end,
            replica.schedule_calls,
            replica.schedule_seconds,
            wall_seconds,
        )

    def _await_arrival(self, index: int) -> None:
        """The next request is made when it arrives: a long trace costs no memory before its time."""
        if index < len(self._trace.requests):
            due_ns = self._trace.requests[index].arrival_ns
            self.clock.at(due_ns, Order.ARRIVAL, lambda: self._arrive(index))

    def _arrive(self, index: int) -> None:
        self._replica.submit(self._request(index))
        self._await_arrival(index + 1)

    def _request(self, index: int) -> Request:
        """What the scheduler may know of the request."""
        asked = self._trace.requests[index]
        due_ns = (
            None if asked.deadline_s is None else asked.arrival_ns + round(asked.deadline_s * NANOSECONDS)
        )
        return Request(
            str(index),
            Fillers(asked.input_tokens),
            self._sampling_for(self._setup.asked_tokens(asked)),
            asked.task_class,
            asked.arrival_ns,
            deadline_ns=due_ns,
            slo=self._setup.targets.told(self._setup.cut(asked), self._setup.machine),
            length_keys=(asked.length_key,) if asked.length_key else (),
        )

    def _sampling_for(self, max_tokens: int) -> SamplingParams:
        if max_tokens not in self._sampling:
            self._sampling[max_tokens] = SamplingParams(max_tokens=max_tokens, stop_token_ids=STOPS)
        return self._sampling[max_tokens]

    def _judged(self, request: Request) -> SLO:
        asked = self._setup.cut(self._trace.requests[int(request.request_id)])
        return self._setup.targets.of(asked, self._setup.machine)

    def _counts(self, request: Request) -> bool:
        setup = self._setup
        return setup.measure_from_ns <= request.arrival_ns and (
            setup.measure_until_ns is None or request.arrival_ns < setup.measure_until_ns
        )

    def _hear(self, events: list[Event]) -> None:
        self._recorder.observe(events)
        if events:
            self._end_ns = events[-1].now_ns
        if self._observe is not None:
            self._observe(events)

    def _snapshot(self) -> Snapshot:
        recorder, scheduler = self._recorder, self._replica.scheduler
        both = {c: (recorder.by_class[c], recorder.others[c]) for c in TaskClass}
        return Snapshot(
            self.clock.now_ns,
            self._replica.meter.totals(self.clock.now_ns),
            scheduler.allocation_failures,
            sum(m.preempted for pair in both.values() for m in pair),
            {c: sum(m.ended_well for m in pair) for c, pair in both.items()},
            {c: sum(m.slo["all", True] for m in pair) for c, pair in both.items()},
            {c: sum(m.output_tokens for m in pair) for c, pair in both.items()},
        )
