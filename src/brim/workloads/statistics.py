"""What a trace looks like, in figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev

from brim.core.errors import TraceError
from brim.core.request import TaskClass
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest


@dataclass(frozen=True)
class LengthStatistics:
    """Tokens; percentiles lie between neighbours where they fall between two."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True)
class TraceStatistics:
    """`rate` is one over the mean gap, `gap_cv` the standard deviation of the gaps over their mean.

    The three figures of time are None for a trace without arrivals, or with fewer than two moments.
    `seen_block_share` is the share of prefix blocks that an earlier request had: what a cache without
    limit would hit; and `prefix_tokens` the tokens of all different blocks, which such a cache would hold:
    None without block ids.
    """

    requests: int
    offline_requests: int
    span_s: float | None
    rate: float | None
    gap_cv: float | None
    input_tokens: LengthStatistics
    output_tokens: LengthStatistics
    block_tokens: int
    seen_block_share: float | None
    prefix_tokens: int | None


def statistics(trace: Trace) -> TraceStatistics:
    """Raises TraceError for a trace without requests."""
    requests = trace.requests
    if not requests:
        raise TraceError(f"{trace.name}: has no requests, so no figures")
    span_s, rate, gap_cv = _pace(requests) if trace.has_arrivals else (None, None, None)
    blocks = sum(len(r.block_ids) for r in requests)
    different = {block_id for r in requests for block_id in r.block_ids}
    return TraceStatistics(
        requests=len(requests),
        offline_requests=sum(r.task_class is TaskClass.OFFLINE for r in requests),
        span_s=span_s,
        rate=rate,
        gap_cv=gap_cv,
        input_tokens=_lengths(r.input_tokens for r in requests),
        output_tokens=_lengths(r.output_tokens for r in requests),
        block_tokens=trace.block_tokens,
        seen_block_share=1 - len(different) / blocks if blocks else None,
        prefix_tokens=len(different) * trace.block_tokens if blocks else None,
    )


def _pace(requests: Sequence[TraceRequest]) -> tuple[float | None, float | None, float | None]:
    gaps_s = [(b.arrival_ns - a.arrival_ns) / NANOSECONDS for a, b in pairwise(requests)]
    mean_s = fmean(gaps_s) if gaps_s else 0.0
    if not mean_s:
        return None, None, None
    span_s = (requests[-1].arrival_ns - requests[0].arrival_ns) / NANOSECONDS
    return span_s, 1 / mean_s, pstdev(gaps_s) / mean_s


def _lengths(tokens: Iterable[int]) -> LengthStatistics:
    ranked = sorted(tokens)
    p50, p90, p99 = (_percentile(ranked, share) for share in (0.5, 0.9, 0.99))
    return LengthStatistics(fmean(ranked), p50, p90, p99, ranked[-1])


def _percentile(ranked: Sequence[int], share: float) -> float:
    place = (len(ranked) - 1) * share
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)
