"""Parts and doubles of a trace: its busiest stretch, and arrivals as they might have come."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate
from random import Random

from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest, from_zero

BLOCK_NS = 60 * NANOSECONDS
LEAST_BLOCKS = 20
NEARBY_BLOCKS = 5
HANDFUL = 5  # requests in a block: with fewer, what is drawn says nothing of bursts


def work_tokens(request: TraceRequest) -> int:
    """How much there is to do: a token of output takes a step, one of a prompt a share of one."""
    return request.input_tokens + 8 * request.output_tokens


def busiest(trace: Trace, count: int) -> Trace:
    """The `count` requests in a row with the most work in the time they take to come; from 0 on."""
    requests = trace.requests
    if len(requests) <= count:
        return from_zero(trace, requests)
    sums = [0, *accumulate(work_tokens(r) for r in requests)]

    def pace(first: int) -> float:
        span_ns = requests[first + count - 1].arrival_ns - requests[first].arrival_ns
        return (sums[first + count] - sums[first]) / max(span_ns, 1)

    first = max(range(len(requests) - count + 1), key=pace)
    part = from_zero(trace, requests[first : first + count])
    return part.noted(f"the busiest {count} requests in a row of {len(requests)}")


def resampled(trace: Trace, seed: int) -> Trace:
    """Each block of time replaced by one within 5 blocks of it: the same shape over time, other requests.

    A local block bootstrap: what is drawn keeps the bursts inside a block and the course of the day. A block
    is a twentieth of the trace, a minute at most. The last one is cut by the end of the trace: none is like
    it, and what takes its place is cut as well.
    """
    rng, requests = Random(seed), trace.requests
    arrivals = [r.arrival_ns for r in requests]
    end_ns = arrivals[-1] + 1
    block_ns = min(max(end_ns // LEAST_BLOCKS, 1), BLOCK_NS)
    whole_blocks = end_ns // block_ns
    drawn: list[TraceRequest] = []
    for block in range(-(-end_ns // block_ns)):
        low, high = max(block - NEARBY_BLOCKS, 0), min(block + NEARBY_BLOCKS, whole_blocks - 1)
        source = rng.randint(low, high)
        shift_ns = (block - source) * block_ns
        first = bisect_left(arrivals, source * block_ns)
        last = bisect_left(arrivals, min((source + 1) * block_ns, end_ns - shift_ns))
        drawn += [r._replace(arrival_ns=r.arrival_ns + shift_ns) for r in requests[first:last]]
    told = f"blocks of {block_ns / NANOSECONDS:.3g} s resampled, seed {seed}"
    return replace(trace, requests=drawn or requests).noted(told)


def too_short(trace: Trace) -> bool:
    """Whether a twentieth of it has too few requests to draw from."""
    return len(trace) < LEAST_BLOCKS * HANDFUL
