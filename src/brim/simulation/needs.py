"""What each request of a trace needs at least, whoever schedules it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from brim.core.config import SchedulerConfig
from brim.core.estimators.step_time import attention_pairs
from brim.core.request import SLO, TaskClass
from brim.simulation.machine import Machine
from brim.simulation.run import Setup
from brim.workloads.trace import Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class Need:
    """Of one request. Times are in picoseconds; `first_` means up to its first token."""

    task_class: TaskClass
    arrival_ps: int
    slo: SLO
    tokens: int  # to compute
    draws: int  # steps that draw one of its tokens
    block_steps: int  # blocks held, summed over those steps
    attention_ps: float  # with what its rows cost besides their tokens
    alone_first_ps: float
    alone_ps: float
    longest_gap_ps: float
    cut: bool  # there is no room for the whole answer

    @property
    def tpot_ps(self) -> float:
        return (self.alone_ps - self.alone_first_ps) / max(self.draws - 1, 1)


def needs_of(trace: Trace, setup: Setup) -> tuple[list[Need], list[TraceRequest]]:
    """Those of the requests that can run, and the requests that are refused."""
    limit = setup.config.max_model_len
    costs = Costs(setup)
    shared = shared_tokens(trace, setup.config)
    needs, refused = [], []
    for request, cached in zip(trace.requests, shared, strict=True):
        asked = setup.max_tokens(request.input_tokens)
        if request.input_tokens < 1 or request.input_tokens + asked > limit:
            refused.append(request)
        else:
            draws = min(max(request.output_tokens, 1), asked)
            needs.append(costs.need(request, draws, cached))
    return needs, refused


def shared_tokens(trace: Trace, config: SchedulerConfig) -> list[int]:
    """Of each prompt, the tokens that may be found in the prefix cache: the blocks it has in common."""
    if not config.enable_prefix_caching or not trace.block_tokens:
        return [0] * len(trace.requests)
    holders = Counter(block_id for r in trace.requests for block_id in set(r.block_ids))
    size = config.block_size
    shared = []
    for request in trace.requests:
        blocks = sum(1 for _ in takewhile(lambda block_id: holders[block_id] > 1, request.block_ids))
        tokens = min(blocks * trace.block_tokens, request.input_tokens - 1)
        shared.append(max(tokens, 0) // size * size)
    return shared


class Costs:
    """Lower bounds on what a request costs a machine.

    One token attends to `context` tokens, its own included, at the rate of a decode or of a prompt chunk,
    whichever is cheaper: a request that was preempted draws its next token from a chunk. Without prefix
    caching that chunk computes the whole context anew, which is dearer than a decode from some context on;
    from there on every token is charged as a decode. Of uneven steps each may be as short as any.
    """

    def __init__(self, setup: Setup) -> None:
        time, shortest = setup.machine.step_time, setup.machine.unevenness.shortest
        self._machine: Machine = setup.machine
        self._setup = setup
        self._size = setup.config.block_size
        self._shortest = shortest
        self._constant = shortest * (time.constant_ps + setup.machine.overhead_ps)
        self._row = shortest * setup.machine.per_sequence_ps
        self._per_decode = shortest * min(time.per_decode_ps, time.per_decode_ps + time.mixed_decode_ps)
        self._per_context = shortest * min(time.per_context_ps, time.per_context_ps + time.mixed_context_ps)
        self._per_pair = min(shortest * time.per_pair_ps, self._per_context)
        self._dear_from = math.inf  # the context from which recomputing is dearer
        if not setup.config.enable_prefix_caching and self._per_pair:
            self._dear_from = 2 * (self._per_context + self._per_decode) / self._per_pair

    def need(self, request: TraceRequest, draws: int, cached: int) -> Need:
        prompt = request.input_tokens
        tokens = prompt - cached
        pairs = attention_pairs(prompt) - attention_pairs(cached)
        first = self._per_pair * pairs
        later = self._decode_ps(prompt + 1, prompt + draws)
        step = self._constant + self.line(1) + self._row
        alone_first = self._packed_ps(tokens) + first
        held = _blocks_up_to(prompt + draws - 1, self._size) - _blocks_up_to(prompt - 1, self._size)
        return Need(
            request.task_class,
            request.arrival_ns * 1000,
            self._setup.targets.of(self._setup.cut(request), self._machine),
            tokens=tokens + draws - 1,
            draws=draws,
            block_steps=held - draws * (cached // self._size),
            attention_ps=first + later + self._row * draws,
            alone_first_ps=alone_first,
            alone_ps=alone_first + (draws - 1) * step + later,
            longest_gap_ps=step + self._decode_ps(prompt + draws - 1, prompt + draws) if draws > 1 else 0,
            cut=request.output_tokens > draws,
        )

    def line(self, tokens: float) -> float:
        """What new tokens take beside the step's constant."""
        time = self._machine.step_time
        line = time.per_token_ps * tokens + sum(e * max(0.0, tokens - knee) for knee, e in time.knees)
        return self._shortest * line

    def _decode_ps(self, start: int, stop: int) -> float:
        """The attention of the tokens with contexts from `start` to before `stop`, one after the other."""
        dear = stop if self._dear_from >= stop else max(start, math.ceil(self._dear_from))
        cheap_contexts = attention_pairs(dear - 1) - attention_pairs(start - 1)
        dear_contexts = attention_pairs(stop - 1) - attention_pairs(dear - 1)
        return (
            self._per_pair * cheap_contexts
            + self._per_context * dear_contexts
            + self._per_decode * (stop - dear)
        )

    def _packed_ps(self, tokens: int) -> float:
        """The least time of steps for so many tokens of one request: equal steps, for the model is convex."""
        steps = -(-tokens // self._setup.config.max_num_batched_tokens)
        best = self._in_steps(tokens, steps)
        while (more := self._in_steps(tokens, steps + 1)) < best:
            best, steps = more, steps + 1
        return best

    def _in_steps(self, tokens: int, steps: int) -> float:
        return steps * (self._constant + self._row + self.line(tokens / steps))


def _blocks_up_to(tokens: int, size: int) -> int:
    """The sum of ceil(n / size) over n from 1 to `tokens`."""
    whole, rest = divmod(tokens, size)
    return size * whole * (whole + 1) // 2 + rest * (whole + 1)


def packings(setup: Setup) -> Sequence[tuple[float, float]]:
    """(constant, slope), ps, of the lines under a step's time without attention; the last through 0."""
    time, most = setup.machine.step_time, setup.config.max_num_batched_tokens
    costs, shortest = Costs(setup), setup.machine.unevenness.shortest
    constant = shortest * float(time.constant_ps + setup.machine.overhead_ps)
    slope = shortest * float(time.per_token_ps)
    sizes = [1, most, *(knee for knee, _ in time.knees if 1 <= knee <= most)]
    lines = [(0.0, min((constant + costs.line(n)) / n for n in sizes))]
    for knee, extra in ((0, 0), *time.knees):
        constant, slope = constant - shortest * extra * knee, slope + shortest * extra
        if constant >= 0 and knee <= most:
            lines.append((constant, slope))
    return lines[::-1]
