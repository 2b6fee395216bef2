"""Figures of a running scheduler, by task class, from its events alone.

TTFT                 arrival to first token
ITL                  gap between two tokens of one request: a distribution
TPOT                 mean gap of one request: (last - first token) / (output tokens - 1)
E2E                  arrival to last token
normalized latency   E2E / output tokens
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

from brim.core.events import (
    Admitted,
    Arrived,
    Event,
    Finished,
    FirstToken,
    MissPredicted,
    Preempted,
    QuietSteps,
    Tokens,
)
from brim.core.request import SLO, FinishReason, Request, RequestState, TaskClass
from brim.metrics.histogram import Histogram
from brim.metrics.judging import judged, missed, targets_of
from brim.metrics.samples import Samples

# vLLM's bounds where it has the same metric, so that dashboards made for it fit
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_ITL = (
    *(0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_LONG = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_SECOND = 1e9
ENDED_WELL = (FinishReason.STOP, FinishReason.LENGTH)


class Distribution(Protocol):
    def observe(self, value: float, times: int = 1) -> None: ...


D = TypeVar("D", bound=Distribution)


@dataclass(slots=True, eq=False)
class ClassMetrics(Generic[D]):
    """Everything counted for one task class, since the start. Distributions are in seconds."""

    queue_seconds: D
    ttft_seconds: D
    itl_seconds: D
    tpot_seconds: D
    e2e_seconds: D
    normalized_latency_seconds: D  # for each output token
    arrived: int = 0
    judged: int = 0  # arrived with a target
    finished: Counter[FinishReason] = field(default_factory=Counter)
    preempted: int = 0
    recomputed_tokens: int = 0  # lost by a preemption and not found in the cache afterwards
    prompt_tokens: int = 0  # of requests admitted
    cached_tokens: int = 0  # of those, found in the prefix cache; never what a preemption lost and found
    output_tokens: int = 0
    predicted_misses: int = 0  # requests of which it was told beforehand that a token will be late
    slo: Counter[tuple[str, bool]] = field(default_factory=Counter)  # (target, met)

    @property
    def prefix_reuse(self) -> float | None:
        """The share of the prompt tokens admitted that was found in the cache; None before the first."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def ended_well(self) -> int:
        return sum(self.finished[reason] for reason in ENDED_WELL)


def bucketed() -> ClassMetrics[Histogram]:
    """For a server: bounded however long it runs."""
    return ClassMetrics(
        queue_seconds=Histogram(_LONG),
        ttft_seconds=Histogram(_TTFT),
        itl_seconds=Histogram(_ITL),
        tpot_seconds=Histogram(_ITL),
        e2e_seconds=Histogram(_LONG),
        normalized_latency_seconds=Histogram(_ITL),
    )


def exact() -> ClassMetrics[Samples]:
    """For an experiment: every value is kept."""
    return ClassMetrics(Samples(), Samples(), Samples(), Samples(), Samples(), Samples())


class Track(Generic[D]):
    """One request under way. While it draws a token in every step, its latest times are the recorder's.

    It holds neither prompt nor answer, so that it may be kept for long.
    """

    __slots__ = (
        "admitted",
        "arrival_ns",
        "first_ns",
        "foretold",
        "joined",
        "last_ns",
        "longest_gap_ns",
        "lost_tokens",
        "metrics",
        "prompt_tokens",
        "request_id",
        "state",
        "targets_ns",
        "tokens_elsewhere",
    )

    def __init__(self, request: Request, metrics: ClassMetrics[D], targets_ns: dict[str, int]) -> None:
        self.request_id = request.request_id
        self.arrival_ns = request.arrival_ns
        self.prompt_tokens = len(request.prompt_token_ids)
        self.metrics = metrics
        self.targets_ns = targets_ns  # by which it is judged
        self.state: RequestState | None = None  # while it draws in every step
        self.admitted = False
        self.foretold = False  # to miss a target
        self.joined = 0  # the step with which it began to draw in every step
        self.first_ns = -1  # none yet
        self.last_ns = -1
        self.longest_gap_ns = 0
        self.lost_tokens = 0  # by the latest preemption
        self.tokens_elsewhere = 0  # drawn under another recorder


class _LongestGaps:
    """The longest gap after any step, in bounded work: of the gaps only those no later one exceeds."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._gaps_ns: list[int] = []

    def add(self, step: int, gap_ns: int) -> None:
        while self._gaps_ns and self._gaps_ns[-1] <= gap_ns:
            self._steps.pop()
            self._gaps_ns.pop()
        self._steps.append(step)
        self._gaps_ns.append(gap_ns)

    def longest_ns(self, after: int) -> int:
        at = bisect_right(self._steps, after)
        return self._gaps_ns[at] if at < len(self._steps) else 0


def _everyone(request: Request) -> bool:
    return True


def _own_slo(request: Request) -> SLO:
    return request.slo


class Recorder(Generic[D]):
    """Fed by one thread; may be read by another at any time.

    A request counts in `by_class` where `counted` says so, else in `others`; `slo` says by which targets
    it is judged. Requests that draw a token in every step are counted by class, so that a step costs what
    changed, and a quiet stretch no look at any request.
    """

    def __init__(
        self,
        new: Callable[[], ClassMetrics[D]],
        counted: Callable[[Request], bool] = _everyone,
        slo: Callable[[Request], SLO] = _own_slo,
    ) -> None:
        self.by_class = {task_class: new() for task_class in TaskClass}
        self.others = {task_class: new() for task_class in TaskClass}
        self.steps = 0
        self._counted = counted
        self._slo = slo
        self._tracks: dict[str, Track[D]] = {}
        self._states: Sequence[RequestState] = ()  # who drew the newest tokens
        self._now_ns = 0  # and when
        self._drawing: dict[RequestState, Track[D]] = {}  # the same, but for those that ended since
        self._rows: Counter[ClassMetrics[D]] = Counter()  # how many of them count where
        self._gaps = _LongestGaps()
        self._hear: dict[type[Event], Callable[[Any], object]] = {
            Tokens: lambda event: self._tokens(event.states, event.now_ns),
            QuietSteps: self._quiet_steps,
            Arrived: lambda event: self._arrived(event.request),
            Admitted: self._admitted,
            FirstToken: self._first_token,
            Preempted: self._preempted,
            MissPredicted: self._miss_predicted,
            Finished: self._finished,
        }

    def observe(self, events: Iterable[Event]) -> None:
        for event in events:
            if hear := self._hear.get(type(event)):
                hear(event)

    def refuse(self, request: Request) -> None:
        """A request that no scheduler took: it arrived, and missed its targets if it had any."""
        metrics = self._arrived(request).metrics
        del self._tracks[request.request_id]
        metrics.finished[FinishReason.REFUSED] += 1

    def hand_over(self, request_id: str, num_output_tokens: int) -> Track[D] | None:
        """Lets go of a request that another scheduler takes over after so many tokens; None if unknown."""
        track = self._tracks.pop(request_id, None)
        if track is not None:
            self._stop(track)
            track.tokens_elsewhere += num_output_tokens
        return track

    def take_over(self, track: Track[D]) -> None:
        """Goes on with it: the request keeps its id, its arrival and where it counts."""
        self._tracks[track.request_id] = track

    def pause(self) -> None:
        """Nobody reports for a while: those that draw tokens are put down as of their latest one."""
        for state in list(self._drawing):
            self._leave(state)
        self._states = ()

    def keep(self, request_ids: Container[str]) -> None:
        """Lets all others go: of them nothing more is told."""
        self._tracks = {name: track for name, track in self._tracks.items() if name in request_ids}

    def knows(self, request_id: str) -> bool:
        """Whether the request is under way here."""
        return request_id in self._tracks

    def drew_more(self, request_id: str, num_tokens: int) -> None:
        """So many tokens came with the one that it drew in the latest step: there is no gap before them."""
        if track := self._tracks.get(request_id):
            track.metrics.output_tokens += num_tokens

    def _arrived(self, request: Request) -> Track[D]:
        if track := self._tracks.get(request.request_id):
            return track  # counted already: taken over, or told of by another scheduler before
        metrics = (self.by_class if self._counted(request) else self.others)[request.task_class]
        targets_ns = targets_of(self._slo(request))
        metrics.arrived += 1
        metrics.judged += bool(targets_ns)
        track = self._tracks[request.request_id] = Track(request, metrics, targets_ns)
        return track

    def _admitted(self, event: Admitted) -> None:
        track = self._tracks[event.request_id]
        metrics = track.metrics
        if event.resumed:
            metrics.recomputed_tokens += max(0, track.lost_tokens - event.cached_tokens)
            return
        if track.admitted:
            return  # counted already
        track.admitted = True
        # inside a host a request may arrive while the step that lets it in is being made
        metrics.queue_seconds.observe(max(event.now_ns - track.arrival_ns, 0) / _SECOND)
        metrics.prompt_tokens += track.prompt_tokens
        metrics.cached_tokens += event.cached_tokens

    def _preempted(self, event: Preempted) -> None:
        track = self._tracks[event.request_id]
        track.lost_tokens = event.lost_tokens
        track.metrics.preempted += 1

    def _miss_predicted(self, event: MissPredicted) -> None:
        track = self._tracks[event.request_id]
        track.metrics.predicted_misses += not track.foretold
        track.foretold = True

    def _first_token(self, event: FirstToken) -> None:
        track = self._tracks[event.request_id]
        if track.first_ns < 0:  # else not the first it ever drew
            self._begins(track, event.now_ns)

    def _begins(self, track: Track[D], now_ns: int) -> None:
        track.first_ns = now_ns
        track.metrics.ttft_seconds.observe((now_ns - track.arrival_ns) / _SECOND)

    # ---- tokens ----------------------------------------------------------------------------------------

    def _tokens(self, states: Sequence[RequestState], now_ns: int) -> None:
        joined = self._part(states) if states is not self._states else ()
        self.steps += 1
        gap_ns = now_ns - self._now_ns
        self._gaps.add(self.steps, gap_ns)
        for metrics, rows in self._rows.items():
            if rows:
                metrics.itl_seconds.observe(gap_ns / _SECOND, rows)
                metrics.output_tokens += rows
        for state in joined:
            self._join(state, now_ns)
        self._states, self._now_ns = states, now_ns

    def _quiet_steps(self, event: QuietSteps) -> None:
        ends_ns = event.ends_ns
        self._tokens(event.states, ends_ns[0])
        if len(ends_ns) == 1:
            return
        gaps_ns = [end - start for start, end in pairwise(ends_ns)]
        self.steps += len(gaps_ns)
        self._gaps.add(self.steps, max(gaps_ns))
        for metrics, rows in self._rows.items():
            if rows:
                observe = metrics.itl_seconds.observe
                for gap_ns in gaps_ns:
                    observe(gap_ns / _SECOND, rows)
                metrics.output_tokens += rows * len(gaps_ns)
        self._now_ns = ends_ns[-1]

    def _part(self, states: Sequence[RequestState]) -> Sequence[RequestState]:
        """Lets those go that don't draw any more; returns those that did not draw in the step before."""
        if states == (*self._drawing,):  # the same in another tuple: the usual case, and cheap to see
            return ()
        for state in self._drawing.keys() - states:
            self._leave(state)
        return [state for state in states if state not in self._drawing]

    def _join(self, state: RequestState, now_ns: int) -> None:
        track = self._tracks[state.request.request_id]
        metrics = track.metrics
        metrics.output_tokens += 1
        if track.first_ns < 0:  # a host kept its first token of a step that was dropped here
            self._begins(track, now_ns)
        if track.last_ns >= 0:
            gap_ns = now_ns - track.last_ns
            metrics.itl_seconds.observe(gap_ns / _SECOND)
            track.longest_gap_ns = max(track.longest_gap_ns, gap_ns)
        track.state, track.joined = state, self.steps
        self._drawing[state] = track
        self._rows[metrics] += 1

    def _leave(self, state: RequestState) -> None:
        track = self._drawing.pop(state)
        track.state = None
        self._rows[track.metrics] -= 1
        track.last_ns = self._now_ns
        track.longest_gap_ns = max(track.longest_gap_ns, self._gaps.longest_ns(after=track.joined))

    def _stop(self, track: Track[D]) -> None:
        """It draws no more, and the next step is not as the latest."""
        if track.state is not None:
            self._leave(track.state)
            self._states = ()

    # ---- the end ---------------------------------------------------------------------------------------

    def _finished(self, event: Finished) -> None:
        track = self._tracks.pop(event.request_id)
        self._stop(track)
        metrics = track.metrics
        metrics.finished[event.reason] += 1
        arrival_ns, tokens = track.arrival_ns, track.tokens_elsewhere + event.num_output_tokens
        if event.reason not in ENDED_WELL or not event.num_output_tokens:
            if track.targets_ns:
                reached = _if_its_next_token_came(event.now_ns, track, tokens)
                # a host ends an answer at a stop string, and a reader one that it has enough of, by an abort
                outcome = judged if tokens and event.reason is FinishReason.ABORT else missed
                metrics.slo.update(outcome(track.targets_ns, reached))
            return  # a host may end a request well before its first token
        if track.first_ns < 0:  # or keep all of its tokens of steps that were dropped here
            self._begins(track, event.now_ns)
            track.last_ns = event.now_ns
        e2e_ns = track.last_ns - arrival_ns
        metrics.e2e_seconds.observe(e2e_ns / _SECOND)
        metrics.normalized_latency_seconds.observe(e2e_ns / tokens / _SECOND)
        tpot_ns = 0.0
        if tokens > 1:
            tpot_ns = (track.last_ns - track.first_ns) / (tokens - 1)
            metrics.tpot_seconds.observe(tpot_ns / _SECOND)
        if track.targets_ns:
            ttft_ns = track.first_ns - arrival_ns
            reached = {"ttft": ttft_ns, "tpot": tpot_ns, "itl": track.longest_gap_ns, "e2e": e2e_ns}
            metrics.slo.update(judged(track.targets_ns, reached))


def _if_its_next_token_came(now_ns: int, track: Track[Any], tokens: int) -> dict[str, float]:
    """The least that the request would have reached, had it not been ended after so many tokens."""
    first_ns = now_ns if track.first_ns < 0 else track.first_ns
    last_ns = now_ns if track.last_ns < 0 else track.last_ns
    return {
        "ttft": first_ns - track.arrival_ns,
        "tpot": (now_ns - first_ns) / max(tokens, 1),
        "itl": max(track.longest_gap_ns, now_ns - last_ns),
        "e2e": now_ns - track.arrival_ns,
    }
