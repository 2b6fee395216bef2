"""A backlog of offline requests: what of it a replica can hold, and what stands for it in a simulation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from brim.workloads.trace import Trace, TraceRequest

KEPT = 5000  # requests that stand for all, given out again and again
RUN = 100  # most that begin alike and are given out together

Run = tuple[TraceRequest, ...]


@dataclass(frozen=True, slots=True)
class Backlog:
    """`tokens` are input and output of all that is to be done: of the trace, or of more like it.

    Where it is `daily`, so many come every day.
    """

    trace: Trace
    tokens: float
    daily: bool = False

    def without(self, too_long: Iterable[TraceRequest]) -> Backlog:
        """The same less these; of `tokens` their share is taken off."""
        gone = set(map(id, too_long))
        kept = [r for r in self.trace.requests if id(r) not in gone]
        share = _tokens(kept) / max(_tokens(self.trace.requests), 1)
        return replace(self, trace=replace(self.trace, requests=kept), tokens=self.tokens * share)

    def drawn(self, seed: int) -> tuple[Run, ...]:
        """At most 5000 requests from all over it, in runs that begin alike and stay together."""
        runs = list(_runs(self.trace.requests))
        Random(seed).shuffle(runs)
        found, left = [], KEPT
        for run in runs:
            found.append(run[:left])
            left -= len(found[-1])
            if not left:
                break
        return tuple(found)


def endless(runs: Sequence[Run]) -> Iterator[Run]:
    """Round after round, each with prefixes of its own: they stand for others, not for the same again."""
    ids = (block_id for run in runs for request in run for block_id in request.block_ids)
    width = 2 * (1 + max(ids, default=0))  # even, so that odd ids stay odd: see `apart`
    for turn in count():
        yield from (_renamed(run, turn * width) for run in runs)


def _renamed(run: Run, shift: int) -> Run:
    """Requests that have one tuple of ids have one afterwards: a long document costs its ids once."""
    if not shift:
        return run
    names = {id(r.block_ids): r.block_ids for r in run}
    moved = {key: tuple(block_id + shift for block_id in ids) for key, ids in names.items()}
    return tuple(r._replace(block_ids=moved[id(r.block_ids)]) for r in run)


def _runs(requests: Sequence[TraceRequest]) -> Iterator[Run]:
    """Requests with the same first block; of more than 100 those together that share most."""
    groups: dict[object, list[TraceRequest]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.block_ids[0] if request.block_ids else (place,), []).append(request)
    for group in groups.values():
        if len(group) > RUN:
            group.sort(key=lambda request: request.block_ids)
        for first in range(0, len(group), RUN):
            yield tuple(group[first : first + RUN])


def _tokens(requests: Iterable[TraceRequest]) -> int:
    return sum(r.input_tokens + r.output_tokens for r in requests)
