"""The order of requests that share prefixes, which decides how much a small cache can hit."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import NamedTuple

from brim.core.errors import ConfigError, TraceError
from brim.workloads.trace import Trace, TraceRequest, redealt


class _Group(NamedTuple):
    """Requests that begin with the same block, and the tokens of the longest shared prefix among them."""

    tokens: int
    requests: deque[TraceRequest]


def mixed(trace: Trace, working_set_tokens: int, seed: int = 0) -> Trace:
    """The same arrivals, the requests dealt to them so that the prefixes in use hold at most so many tokens.

    Requests with the same first block are a group, and stay in their order. Groups open in the order of the
    trace while their prefixes come to no more than `working_set_tokens` (one is open in any case), and each
    next request is of an open group drawn at random. A cache of that size can hit all that is shared, a
    much smaller one hits little. Raises ConfigError, and TraceError for a trace without block ids.
    """
    if working_set_tokens < 1:
        raise ConfigError(f"a working set of {working_set_tokens} tokens: give 1 or more")
    waiting, rng = _groups(trace), Random(seed)
    under_way: list[_Group] = []
    dealt, left_tokens = [], working_set_tokens
    while waiting or under_way:
        while waiting and (not under_way or waiting[0].tokens <= left_tokens):
            under_way.append(waiting.popleft())
            left_tokens -= under_way[-1].tokens
        place = rng.randrange(len(under_way))
        group = under_way[place]
        dealt.append(group.requests.popleft())
        if not group.requests:
            left_tokens += group.tokens
            under_way[place] = under_way[-1]
            under_way.pop()
    remark = f"order mixed within a working set of {working_set_tokens} prefix tokens, seed {seed}"
    return redealt(trace, dealt).noted(remark)


def _groups(trace: Trace) -> deque[_Group]:
    """In the order of their first requests; one without block ids is a group of its own, of 0 tokens."""
    if not any(request.block_ids for request in trace.requests):
        raise TraceError(f"{trace.name}: has no block ids, so no prefixes to mix by: shuffle it instead")
    by_first: dict[tuple[int, ...], list[TraceRequest]] = {}
    for number, request in enumerate(trace.requests):
        by_first.setdefault(request.block_ids[:1] or (-1, number), []).append(request)
    return deque(
        _Group(max(len(r.block_ids) for r in requests) * trace.block_tokens, deque(requests))
        for requests in by_first.values()
    )
