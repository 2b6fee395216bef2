"""Figures of a running scheduler, by task class, from its events alone.

TTFT   arrival to first token
ITL    gap between two tokens of one request: a distribution
TPOT   mean gap of one request: (last - first token) / (output tokens - 1)
E2E    arrival to last token
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

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
from brim.core.request import SLO, FinishReason, Request, RequestState, TaskClass
from brim.metrics.histogram import Histogram

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


@dataclass(slots=True)
class ClassMetrics:
    """Everything counted for one task class, since the start. Histograms are in seconds."""

    arrived: int = 0
    finished: Counter[FinishReason] = field(default_factory=Counter)
    preempted: int = 0
    recomputed_tokens: int = 0  # lost by a preemption and not found in the cache afterwards
    prompt_tokens: int = 0  # of requests admitted
    cached_tokens: int = 0  # of those, found in the prefix cache; never what a preemption lost and found
    output_tokens: int = 0
    slo: Counter[tuple[str, bool]] = field(default_factory=Counter)  # (target, met)
    queue_seconds: Histogram = field(default_factory=partial(Histogram, _LONG))
    ttft_seconds: Histogram = field(default_factory=partial(Histogram, _TTFT))
    itl_seconds: Histogram = field(default_factory=partial(Histogram, _ITL))
    tpot_seconds: Histogram = field(default_factory=partial(Histogram, _ITL))
    e2e_seconds: Histogram = field(default_factory=partial(Histogram, _LONG))


class _Track:
    """One request under way."""

    __slots__ = ("first_is_due", "first_ns", "last_ns", "longest_gap_ns", "lost_tokens", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.first_is_due = True
        self.first_ns = 0
        self.last_ns = 0
        self.longest_gap_ns = 0
        self.lost_tokens = 0  # by the latest preemption


class Recorder:
    """Fed by one thread; may be read by another at any time."""

    def __init__(self) -> None:
        self.by_class = {task_class: ClassMetrics() for task_class in TaskClass}
        self.steps = 0
        self._tracks: dict[str, _Track] = {}
        self._rows: Sequence[RequestState] = ()  # who drew the newest tokens, and when: a quiet stretch
        self._rows_ns = 0  # is counted by class, and told to the tracks when the rows change
        self._rows_by_class: Counter[TaskClass] = Counter()
        self._longest_gap_ns = 0  # of the quiet stretch

    def observe(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Tokens():
                    self._tokens(event)
                case QuietSteps():
                    for tokens in event.steps():
                        self._tokens(tokens)
                case Arrived():
                    self._tracks[event.request.request_id] = _Track(event.request)
                    self._metrics(event.request).arrived += 1
                case Admitted():
                    self._admitted(event)
                case FirstToken():
                    self._first_token(event)
                case Preempted():
                    track = self._tracks[event.request_id]
                    track.lost_tokens = event.lost_tokens
                    self._metrics(track.request).preempted += 1
                case Finished():
                    self._finished(event)

    def _metrics(self, request: Request) -> ClassMetrics:
        return self.by_class[request.task_class]

    def _admitted(self, event: Admitted) -> None:
        track = self._tracks[event.request_id]
        request, metrics = track.request, self._metrics(track.request)
        if event.resumed:
            metrics.recomputed_tokens += max(0, track.lost_tokens - event.cached_tokens)
            return
        metrics.queue_seconds.observe((event.now_ns - request.arrival_ns) / _SECOND)
        metrics.prompt_tokens += len(request.prompt_token_ids)
        metrics.cached_tokens += event.cached_tokens

    def _first_token(self, event: FirstToken) -> None:
        track = self._tracks[event.request_id]
        track.first_ns = event.now_ns
        ttft_ns = event.now_ns - track.request.arrival_ns
        self._metrics(track.request).ttft_seconds.observe(ttft_ns / _SECOND)

    def _tokens(self, event: Tokens) -> None:
        self.steps += 1
        gap_ns = event.now_ns - self._rows_ns
        if event.states is self._rows:
            self._longest_gap_ns = max(self._longest_gap_ns, gap_ns)
            for task_class, rows in self._rows_by_class.items():
                self.by_class[task_class].itl_seconds.observe(gap_ns / _SECOND, rows)
                self.by_class[task_class].output_tokens += rows
        else:
            self._settle_rows()
            for state in event.states:
                self._one_token(self._tracks[state.request.request_id], event.now_ns)
            self._rows = event.states
            self._rows_by_class = Counter(state.request.task_class for state in event.states)
        self._rows_ns = event.now_ns

    def _one_token(self, track: _Track, now_ns: int) -> None:
        metrics = self._metrics(track.request)
        metrics.output_tokens += 1
        if track.first_is_due:
            track.first_is_due = False
        else:
            gap_ns = now_ns - track.last_ns
            metrics.itl_seconds.observe(gap_ns / _SECOND)
            track.longest_gap_ns = max(track.longest_gap_ns, gap_ns)
        track.last_ns = now_ns

    def _settle_rows(self) -> None:
        for state in self._rows:
            track = self._tracks.get(state.request.request_id)
            if track is not None:
                track.last_ns = self._rows_ns
                track.longest_gap_ns = max(track.longest_gap_ns, self._longest_gap_ns)
        self._rows, self._longest_gap_ns = (), 0

    def _finished(self, event: Finished) -> None:
        self._settle_rows()
        track = self._tracks.pop(event.request_id)
        metrics = self._metrics(track.request)
        metrics.finished[event.reason] += 1
        if event.reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return
        e2e_ns = track.last_ns - track.request.arrival_ns
        metrics.e2e_seconds.observe(e2e_ns / _SECOND)
        tpot_ns = 0.0
        if event.num_output_tokens > 1:
            tpot_ns = (track.last_ns - track.first_ns) / (event.num_output_tokens - 1)
            metrics.tpot_seconds.observe(tpot_ns / _SECOND)
        ttft_ns = track.first_ns - track.request.arrival_ns
        reached = {"ttft": ttft_ns, "tpot": tpot_ns, "itl": track.longest_gap_ns, "e2e": e2e_ns}
        metrics.slo.update(_judged(track.request.slo, reached))


def _judged(slo: SLO, reached_ns: dict[str, float]) -> Iterable[tuple[str, bool]]:
    """(target, met) for each target the request had, and for `all` of them together."""
    targets = {"ttft": slo.ttft_ns, "tpot": slo.tpot_ns, "itl": slo.itl_ns, "e2e": slo.e2e_ns}
    met = {name: reached_ns[name] <= ns for name, ns in targets.items() if ns is not None}
    return [*met.items(), ("all", all(met.values()))] if met else []
