"""Figures of `local_frontier`: what a slice gives, what the rounds come to, and which aims are met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from brim.core.events import Event, Tokens
from brim.core.request import SLO, TaskClass
from brim.metrics.recorder import Recorder, exact
from brim.metrics.samples import Samples

ONLINE, OFFLINE = TaskClass.ONLINE, TaskClass.OFFLINE
SECOND = 1_000_000_000
SCALES = (1.5, 2.0, 4.0)  # targets over what online requests alone reach
AIM_ATTAINMENT, AIM_THROUGHPUT = 0.99, 0.95


@dataclass(frozen=True)
class Contender:
    """A policy; `scale` where it is told of the targets, `offline_step_tokens` where that is fixed."""

    name: str
    policy: str
    scale: float | None = None
    offline_step_tokens: int = 0
    with_offline: bool = True


@dataclass
class Slice:
    """What happened in it. What arrived or was drawn in [`from_ns`, `until_ns`) counts."""

    from_ns: int
    until_ns: int
    events: list[Event] = field(default_factory=list)
    busy_ns: int = 0
    offline_left: int = 0
    step_error: dict[str, float] = field(default_factory=dict)

    def counts(self, now_ns: int) -> bool:
        return self.from_ns <= now_ns < self.until_ns


def figures(found: Slice, targets: Iterable[SLO]) -> dict[str, Any]:
    """Latencies in ms, offline tokens drawn per second, and (met, arrived) online for each of the targets."""
    seconds = (found.until_ns - found.from_ns) / SECOND
    online = [_judged(found, slo).by_class[ONLINE] for slo in targets]
    ttft, itl = (d.percentiles((0.5, 0.99)) for d in (online[0].ttft_seconds, online[0].itl_seconds))
    return {
        "ttft_ms": [1e3 * (value or 0.0) for value in ttft],
        "itl_ms": [1e3 * (value or 0.0) for value in itl],
        "offline_tokens_s": _offline_tokens(found) / seconds,
        "busy": found.busy_ns / SECOND / seconds,
        "met": [(metrics.slo["all", True], metrics.arrived) for metrics in online],
        "step_error": found.step_error,
    }


def _judged(found: Slice, slo: SLO) -> Recorder[Samples]:
    """Who did not end well before the slice was over has missed its targets."""
    recorder = Recorder(exact, lambda request: found.counts(request.arrival_ns), lambda request: slo)
    recorder.observe(found.events)
    return recorder


def _offline_tokens(found: Slice) -> int:
    drawn = (event for event in found.events if isinstance(event, Tokens) and found.counts(event.now_ns))
    return sum(state.request.task_class is OFFLINE for event in drawn for state in event.states)


@dataclass(frozen=True)
class Line:
    """All rounds of a contender. `attainment` (0 to 1) by scale, without those it was not told of."""

    name: str
    ttft_ms: list[float]  # p50, p99
    itl_ms: list[float]
    busy: float
    offline_tokens_s: float
    attainment: dict[float, float]
    step_error: dict[str, float]


def summed_up(who: Contender, rounds: Sequence[dict[str, Any]]) -> Line:
    def middle(name: str) -> list[float]:
        return [median(column) for column in zip(*(found[name] for found in rounds), strict=True)]

    attainment = {}
    for at, scale in enumerate(SCALES):
        met, arrived = (sum(found["met"][at][i] for found in rounds) for i in (0, 1))
        if who.scale in (None, scale):
            attainment[scale] = met / max(arrived, 1)
    errors = [found["step_error"] for found in rounds]
    return Line(
        who.name,
        middle("ttft_ms"),
        middle("itl_ms"),
        median(found["busy"] for found in rounds),
        median(found["offline_tokens_s"] for found in rounds),
        attainment,
        {name: median(error[name] for error in errors) for name in errors[0]},
    )


def best_fixed(lines: Sequence[Line], scale: float, attained: float) -> Line | None:
    """The fixed budget with most offline tokens per second, of those that attain as much, or the aim."""
    fixed = [line for line in lines if line.name.startswith("bs ")]
    able = [line for line in fixed if line.attainment[scale] >= min(attained, AIM_ATTAINMENT)]
    return max(able, key=lambda line: line.offline_tokens_s, default=None)


def verdict(line: Line, scale: float, lines: Sequence[Line]) -> str:
    """Whether a policy that counts time reaches both aims."""
    attained = line.attainment[scale]
    best = best_fixed(lines, scale, attained)
    reached = "met" if attained >= AIM_ATTAINMENT else "MISSED"
    text = f"{line.name:<12} attainment {100 * attained:6.2f} % {reached}; throughput "
    if best is None:
        return f"{text}met: no fixed budget attains as much"
    ratio = line.offline_tokens_s / max(best.offline_tokens_s, 1e-9)
    return f"{text}{ratio:.2f}x of {best.name} {'met' if ratio >= AIM_THROUGHPUT else 'MISSED'}"


def show(lines: Sequence[Line]) -> None:
    print(f"{'':<13}{'TTFT p50':>9}{'p99':>7}{'ITL p50':>9}{'p99':>7}", end="")
    print("".join(f"{f'at {scale:g}x':>9}" for scale in SCALES), f"{'offline/s':>10}{'busy':>6}  step error")
    for line in lines:
        print(f"{line.name:<13}{line.ttft_ms[0]:9.1f}{line.ttft_ms[1]:7.1f}", end="")
        print(f"{line.itl_ms[0]:9.1f}{line.itl_ms[1]:7.1f}", end="")
        print("".join(f"{_percent(line.attainment.get(scale)):>9}" for scale in SCALES), end=" ")
        print(f"{line.offline_tokens_s:10.1f}{line.busy:6.2f}  {_error(line.step_error)}")
    for scale in SCALES:
        for line in lines:
            if line.name.endswith(f" {scale:g}x"):
                print(verdict(line, scale, lines))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _error(figures: dict[str, float]) -> str:
    return "p50 {p50:.3f}, p95 {p95:.3f}, bias {bias:+.3f}".format(**figures) if figures else ""
