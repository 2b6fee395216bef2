"""Optimal schedules of one machine that may divide itself among jobs and change over at any moment.

All times in one unit. A real schedule can't beat these, whatever it knows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Job(NamedTuple):
    release: float
    work: float
    weight: float = 1.0


def total_flow(jobs: Sequence[Job]) -> float:
    """The least possible sum of (end - release): shortest remaining work first (Schrage, 1968)."""
    ends = {index: end for index, _, end in _pieces(jobs, lambda job, left: left)}
    return sum(ends[index] - job.release for index, job in enumerate(jobs))


def total_weighted_flow(jobs: Sequence[Job]) -> float:
    """A lower bound on the sum of weight x (end - release).

    A job whose work is done at mean time M ends at M + work / 2 or later, and the weighted sum of the M is
    least when the largest weight / work goes first (Goemans, 1997).
    """
    busy = [0.0] * len(jobs)
    for index, start, end in _pieces(jobs, lambda job, left: job.work / job.weight):
        busy[index] += (end * end - start * start) / 2
    return sum(
        job.weight * (time / job.work + job.work / 2 - job.release)
        for job, time in zip(jobs, busy, strict=True)
    )


def most_on_time(jobs: Sequence[tuple[float, float]]) -> int:
    """How many of the (due, work) can be done in time by one machine that may start all at 0.

    In order of their due times, dropping the largest whenever one is late (Moore and Hodgson, 1968).
    """
    kept: list[float] = []
    total = 0.0
    for due, work in sorted(jobs):
        heapq.heappush(kept, -work)
        total += work
        if total > due:
            total += heapq.heappop(kept)
    return len(kept)


def _pieces(jobs: Sequence[Job], key: Callable[[Job, float], float]) -> Iterator[tuple[int, float, float]]:
    """(job, start, end) of each piece of work, the smallest `key(job, work left)` first at any moment."""
    arriving = sorted(range(len(jobs)), key=lambda index: jobs[index].release)
    waiting: list[tuple[float, int, float]] = []
    now, arrived = 0.0, 0
    while waiting or arrived < len(arriving):
        if not waiting:
            now = max(now, jobs[arriving[arrived]].release)
        while arrived < len(arriving) and jobs[arriving[arrived]].release <= now:
            index = arriving[arrived]
            heapq.heappush(waiting, (key(jobs[index], jobs[index].work), index, jobs[index].work))
            arrived += 1
        _, index, left = heapq.heappop(waiting)
        until = jobs[arriving[arrived]].release if arrived < len(arriving) else float("inf")
        end = min(now + left, until)
        yield index, now, end
        if end < now + left:
            left -= end - now
            heapq.heappush(waiting, (key(jobs[index], left), index, left))
        now = end
