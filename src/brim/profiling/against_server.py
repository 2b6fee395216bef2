"""A profile held against a server: the same trace sent to it and simulated, figure by figure.

A profile tells of steps. What else a server takes, for each request and for each step, and how unevenly it
does, is probed on the idle server with requests that are no part of the trace. Both is simulated: the profile
alone, and with the server's share.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import sqrt
from statistics import median, pvariance
from typing import Any, NamedTuple, TypeVar

from brim.core.estimators.step_time import StepTime
from brim.core.request import TaskClass
from brim.metrics.samples import Samples
from brim.profiles.loader import Profile
from brim.profiles.unevenness import EVEN, Unevenness
from brim.profiling.load_client import Ask, Client, asks_of, failure
from brim.simulation.results import summary
from brim.simulation.run import Run, Setup, simulate
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

ALONE, TOGETHER, ROUNDS = 4, 8, 4  # requests of a probe: one after the other, and at once, so many times
ANSWER_TOKENS = 32
IN_A_ROW = 8  # gaps between its tokens
PICOSECONDS = 1_000_000_000_000
SHARES = ("p50", "p95", "p99")
LATENCIES = ("TTFT", "ITL", "TPOT")
TOKENS = "tokens/s"
Figures = dict[str, float | None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """What the server takes beyond the profile's steps, in seconds; negative where it is faster."""

    request: float  # of every request, once
    step: float
    sequence: float  # of every request in a step
    unevenness: Unevenness = EVEN  # over the median

    def on(self, setup: Setup) -> Setup:
        machine = setup.machine
        hosted = replace(
            machine,
            overhead_ps=machine.overhead_ps + self._step_ps(machine.step_time),
            per_sequence_ps=machine.per_sequence_ps + round(self.sequence * PICOSECONDS),
            unevenness=self.unevenness,
        )
        return replace(setup, machine=hosted)

    def _step_ps(self, step_time: StepTime) -> int:
        """No step takes less than no time."""
        return max(round(self.step * PICOSECONDS), -step_time.constant_ps)

    def within(self, profile: Profile, error: float | None = None) -> Profile:
        """The profile with the server's share of each step in it; `error` is what it was still off there."""
        step_time, tell = (
            profile.step_time,
            f"{1e6 * self.step:+.0f} us a step, {1e6 * self.sequence:+.0f} us",
        )
        served = replace(
            step_time,
            constant_ps=step_time.constant_ps + self._step_ps(step_time),
            per_decode_ps=step_time.per_decode_ps + round(self.sequence * PICOSECONDS),
        )
        note = f"With the server's share, probed on the idle server: {tell} a decode; as uneven as there."
        return replace(
            profile,
            step_time=served,
            notes=(*profile.notes, note),
            unevenness=self.unevenness,
            error=profile.error if error is None else error,
        )


class Comparison(NamedTuple):
    """One figure; seconds, or tokens/s. `hosted` is simulated with the server's share."""

    task_class: str
    what: str
    measured: float | None
    simulated: float | None
    hosted: float | None

    @property
    def errors(self) -> tuple[float | None, float | None]:
        return _error(self.simulated, self.measured), _error(self.hosted, self.measured)


@dataclass(frozen=True, slots=True)
class Check:
    share: Share
    figures: tuple[Comparison, ...]
    seconds: float  # that the run took
    requests: dict[str, int]

    @property
    def error(self) -> float | None:
        """How far the usual time of a token of an online request was off, with the server's share."""
        off = [each.errors[1] for each in self.figures if each[:2] == (TaskClass.ONLINE, "TPOT p50")]
        return None if not off or off[0] is None else abs(off[0])


def check(client: Client, trace: Trace, make_setup: Callable[[], Setup]) -> Check:
    """Probes the server, sends it the trace, and simulates the same. Raises ConfigError.

    A setup's policy learns: so each simulation has one of its own.
    """

    def fresh() -> Setup:
        return replace(make_setup(), exact=True)

    setup = fresh()
    share = _run(_probe(client, trace, fresh))
    asks = asks_of(trace, secrets.token_hex(4))
    until = None if setup.measure_until_ns is None else setup.measure_until_ns / NANOSECONDS
    seconds = _run(client.drive(asks, until))
    counts = {str(c): sum(r.task_class is c for r in trace.requests) for c in TaskClass}
    return Check(share, beside(asks, seconds, trace, make_setup, share.on, share.request), seconds, counts)


def beside(
    asks: Sequence[Ask],
    seconds: float,
    trace: Trace,
    make_setup: Callable[[], Setup],
    host: Callable[[Setup], Setup],
    request_seconds: float = 0.0,
) -> tuple[Comparison, ...]:
    """What came of the trace's requests in so many seconds, what is simulated, and what is on the `host`."""
    setup = replace(make_setup(), exact=True)
    bare, hosted = simulate(trace, setup), simulate(trace, host(replace(make_setup(), exact=True)))
    compared = []
    for task_class in TaskClass:
        if any(request.task_class is task_class for request in trace.requests):
            found = _measured(asks, task_class, setup, seconds)
            columns = (
                found,
                _simulated(bare, task_class, 0.0),
                _simulated(hosted, task_class, request_seconds),
            )
            compared += [
                Comparison(str(task_class), what, *(column[what] for column in columns)) for what in found
            ]
    return tuple(compared)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Raises what the first request to fail raised."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise next(failure(group)) from group


# ---- the server's share --------------------------------------------------------------------------------


async def _probe(client: Client, trace: Trace, fresh: Callable[[], Setup]) -> Share:
    """Requests as long as the median online one, on the idle server: one by one, and several together."""
    online = [request for request in trace.requests if request.task_class is TaskClass.ONLINE]
    prompt = int(median(request.input_tokens for request in online or trace.requests))
    several = min(TOGETHER, fresh().config.max_num_seqs)
    await _sent(client, prompt, 2)  # the first requests of a server may be slow
    alone, together = [], []
    for _ in range(ALONE):
        alone += await _sent(client, prompt, 1)
    for _ in range(ROUNDS):
        together += await _sent(client, prompt, several)
    ttft, gap = median(ask.ttft(0.0) for ask in alone), _median_gap(alone)
    share = _share(fresh, prompt, several, ttft, gap, _median_gap(together))
    one_each_round = together[::several]  # all of a round have the same steps
    both = (unevenness([ask.gaps(0.0) for ask in asks]) for asks in (alone, one_each_round))
    return replace(share, unevenness=Unevenness.of(chain(*both)))


async def _sent(client: Client, prompt: int, count: int) -> list[Ask]:
    asks = asks_of(_at_once(prompt, count), secrets.token_hex(4))
    await client.drive(asks)
    return asks


def _at_once(prompt: int, count: int) -> Trace:
    return Trace("probe", [TraceRequest(0, prompt, ANSWER_TOKENS)] * count)


def _median_gap(asks: Sequence[Ask]) -> float:
    return median(gap for ask in asks for gap in ask.gaps(0.0))


def unevenness(answers: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The gaps of each answer over the median of all, as uneven as the steps are.

    A token that is told late makes the next gap as much shorter; a late step does not. So over several
    gaps in a row only what is the steps' own adds up, and their part of a single gap's variance follows.
    """
    gaps = [gap for answer in answers for gap in answer]
    middle, single = median(gaps), pvariance(gaps)
    rows = [sum(each[i : i + IN_A_ROW]) for each in answers for i in range(len(each) - IN_A_ROW + 1)]
    own = max(pvariance(rows) - single, 0.0) / (IN_A_ROW - 1)
    if not middle or not single:
        return (1.0,)
    part = min(sqrt(own / single), 1.0)
    return tuple(1 + part * (gap / middle - 1) for gap in gaps)


def _share(
    fresh: Callable[[], Setup], prompt: int, several: int, ttft: float, gap: float, gap_together: float
) -> Share:
    """What is left over of the probe's figures, medians, when those of even steps are taken away."""

    def simulated(setup: Setup, count: int) -> tuple[float, float]:
        even = replace(setup.machine, unevenness=EVEN)
        whole = replace(setup, machine=even, measure_from_ns=0, measure_until_ns=None)
        metrics = simulate(_at_once(prompt, count), whole).by_class[TaskClass.ONLINE]
        first, between = (each.percentiles([0.5])[0] for each in (metrics.ttft_seconds, metrics.itl_seconds))
        assert first is not None
        assert between is not None
        return first, between

    over, over_together = gap - simulated(fresh(), 1)[1], gap_together - simulated(fresh(), several)[1]
    sequence = max(over_together - over, 0.0) / max(several - 1, 1)
    share = Share(0.0, over - sequence, sequence)
    return replace(share, request=ttft - simulated(share.on(fresh()), 1)[0])


# ---- figures -------------------------------------------------------------------------------------------


def _measured(asks: Sequence[Ask], task_class: TaskClass, setup: Setup, seconds: float) -> Figures:
    start = setup.measure_from_ns / NANOSECONDS
    of_class = [ask for ask in asks if ask.offline == (task_class is TaskClass.OFFLINE)]
    last = max((ask.token_times[-1] for ask in asks if ask.token_times), default=seconds)
    end = last if setup.measure_until_ns is None else setup.measure_until_ns / NANOSECONDS
    drawn = sum(start <= at <= end for ask in of_class for at in ask.token_times)
    values: dict[str, list[float]] = {name: [] for name in LATENCIES}
    for ask in of_class:
        if start <= ask.at < end and (task_class is TaskClass.ONLINE or ask.done):
            gaps = ask.gaps(seconds)
            values["TTFT"].append(ask.ttft(seconds))
            values["ITL"] += gaps
            values["TPOT"] += [sum(gaps) / len(gaps)] if gaps else []
    return _figures([_samples(each) for each in values.values()], drawn / (end - start), task_class)


def _samples(values: Sequence[float]) -> Samples:
    samples = Samples()
    for value in values:
        samples.observe(value)
    return samples


def _simulated(run: Run, task_class: TaskClass, request_seconds: float) -> Figures:
    metrics = run.by_class[task_class]
    seconds = (run.end.now_ns - run.start.now_ns) / NANOSECONDS
    drawn = run.end.output_tokens[task_class] - run.start.output_tokens[task_class]
    samples = [metrics.ttft_seconds, metrics.itl_seconds, metrics.tpot_seconds]
    found = _figures(samples, drawn / seconds, task_class)
    return {
        what: value + request_seconds if what.startswith("TTFT") and value is not None else value
        for what, value in found.items()
    }


def _figures(samples: Sequence[Samples], rate: float, task_class: TaskClass) -> Figures:
    """Offline requests wait as long as they must: only their rate counts."""
    if task_class is TaskClass.OFFLINE:
        return {TOKENS: rate}
    summaries = zip(LATENCIES, map(summary, samples), strict=True)
    return {f"{name} {share}": each[share] for name, each in summaries for share in SHARES} | {TOKENS: rate}


def _error(value: float | None, measured: float | None) -> float | None:
    return value / measured - 1 if value is not None and measured else None


# ---- a table -------------------------------------------------------------------------------------------


def table(found: Check) -> list[str]:
    """In Markdown; milliseconds and tokens/s."""
    share = found.share
    counts = " and ".join(f"{count} {name}" for name, count in found.requests.items() if count)
    return [
        f"{counts} requests in {found.seconds:.0f} s. Probed on the idle server, beyond the profile: "
        f"{1e3 * share.request:+.1f} ms a request, {1e3 * share.step:+.2f} ms a step, "
        f"{1e6 * share.sequence:+.0f} us a request in it; steps take {share.unevenness}.",
        "",
        *rows(found.figures),
    ]


def rows(figures: Sequence[Comparison], hosted: str = "with the server's share") -> list[str]:
    """The same, of the figures alone."""
    lines = [
        f"| | measured | profile alone | error | {hosted} | error |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in figures:
        error, hosted_error = each.errors
        cells = [
            f"{each.task_class}, {each.what}" + ("" if each.what == TOKENS else ", ms"),
            *(_told(each.what, each.measured), _told(each.what, each.simulated), _percent(error)),
            *(_told(each.what, each.hosted), _percent(hosted_error)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _told(what: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if what == TOKENS else f"{1e3 * value:.1f}"


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.1%}"
