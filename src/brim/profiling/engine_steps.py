"""Real steps, timed: a grid of sizes, run through the protocol of Brim's engines without a scheduler.

Every step draws for all of its rows, so `finish` waits for the device, and the time is that of a whole step:
the engine's work on the host included, a scheduler's not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from statistics import median, median_low
from typing import NamedTuple, Protocol

import brim
from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.core.plan import Chunk, StepPlan
from brim.core.request import Request, RequestState, SamplingParams
from brim.engines.base import Engine, EngineCaps
from brim.profiling.fitting import Row

_ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0)


class Sizes(NamedTuple):
    """`decodes` requests that attend to `context` tokens each, and `prompts` chunks of `chunk` tokens.

    A chunk begins at the token `start` of its prompt.
    """

    decodes: int
    context: int
    prompts: int
    chunk: int
    start: int

    @property
    def shape(self) -> StepShape:
        tokens, pairs = self.prompts * self.chunk, self.prompts * attention_pairs(self.chunk, self.start)
        return StepShape(self.decodes + tokens, pairs, self.decodes, self.decodes * self.context)

    @property
    def longest(self) -> int:
        """Tokens of its longest request."""
        return max(self.context, self.start + self.chunk)

    def longer(self, tokens: int) -> Sizes:
        """The same with chunks so much longer."""
        return self._replace(chunk=self.chunk + tokens) if self.prompts else self

    def blocks(self, block_size: int) -> int:
        chunks = self.prompts * -(-(self.start + self.chunk) // block_size)
        return self.decodes * -(-self.context // block_size) + chunks


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may have at most."""

    requests: int
    tokens: int
    request_tokens: int
    blocks: int
    block_size: int

    def allow(self, sizes: Sizes) -> bool:
        return (
            sizes.decodes + sizes.prompts <= self.requests
            and sizes.shape.new_tokens <= self.tokens
            and sizes.longest <= self.request_tokens
            and sizes.blocks(self.block_size) <= self.blocks
        )

    def varied(self, sizes: Sizes, tokens: int) -> Sizes:
        """Other sizes near these, with chunks `tokens` longer; a full step is always as large."""
        other = sizes.longer(tokens)
        fits = other.chunk > 1 and self.allow(other)
        return other if fits and sizes.shape.new_tokens < self.tokens else sizes


@dataclass(frozen=True, slots=True)
class Grid:
    """Decodes alone, one chunk alone, several prompts, and decodes beside one chunk: all that fit together.

    `repeats` is how often each step is timed.
    """

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    chunks: tuple[int, ...]
    starts: tuple[int, ...]
    prompts: tuple[int, ...]
    prompt_chunks: tuple[int, ...]
    mixed_batches: tuple[int, ...]
    mixed_contexts: tuple[int, ...]
    mixed_chunks: tuple[int, ...]
    mixed_starts: tuple[int, ...]
    repeats: int

    def sizes(self, limits: Limits) -> list[Sizes]:
        """Those that are allowed."""
        return [sizes for sizes in self._all() if limits.allow(sizes)]

    def _all(self) -> Iterator[Sizes]:
        for batch, context in product(self.batches, self.contexts):
            yield Sizes(batch, context, 0, 0, 0)
        for chunk, start in product(self.chunks, self.starts):
            yield Sizes(0, 0, 1, chunk, start)
        for prompts, chunk in product(self.prompts, self.prompt_chunks):
            yield Sizes(0, 0, prompts, chunk, 0)
        mixed = (self.mixed_batches, self.mixed_contexts, self.mixed_chunks, self.mixed_starts)
        for batch, context, chunk, start in product(*mixed):
            yield Sizes(batch, context, 1, chunk, start)


FULL = Grid(
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    contexts=(64, 256, 1024, 4096, 16384),
    chunks=(16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192),
    starts=(0, 512, 2048, 8192),
    prompts=(2, 4, 8),
    prompt_chunks=(32, 128, 512),
    mixed_batches=(1, 8, 32, 128),
    mixed_contexts=(256, 2048),
    mixed_chunks=(32, 64, 128, 256, 512, 1024, 1536),
    mixed_starts=(0, 2048),
    repeats=7,
)
QUICK = Grid(
    batches=(1, 4, 8, 16, 32),
    contexts=(64, 512),
    chunks=(16, 32, 64, 128, 256, 512, 1024),
    starts=(0, 512),
    prompts=(4,),
    prompt_chunks=(32, 64),
    mixed_batches=(2, 8, 16),
    mixed_contexts=(64, 512),
    mixed_chunks=(32, 64, 128, 256),
    mixed_starts=(0,),
    repeats=5,
)


class Timed(NamedTuple):
    """The median time of a step, and the share of it by which its repeats differ from it in the median."""

    row: Row
    spread: float


class Steps(Protocol):
    """Runs steps of given sizes, of any engine. `source` and `notes` say what was timed, and of what."""

    @property
    def caps(self) -> EngineCaps: ...
    @property
    def tensor_parallel(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def fill(self, num_blocks: int) -> None:
        """Computes some KV for so many blocks: arithmetic on zeros can be faster, or take less power."""

    def took(self, sizes: Sizes) -> tuple[StepShape, int]:
        """What a step of these sizes held, and its nanoseconds. Raises ConfigError where it can't be run."""


def timed_steps(
    steps: Steps,
    sizes: Sequence[Sizes],
    repeats: int,
    limits: Limits,
    *,
    done: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Times every step `repeats` times, after a round that warms the engine up; `done` hears of each step.

    Rounds run the whole grid in changing order: a machine that gets slower makes all sizes slower alike. Each
    round has chunks of other lengths, as prompts have: an engine may be slow at a number of tokens that it
    has not seen lately (vLLM on a CPU makes oneDNN's primitives for it, and keeps 32). Raises ConfigError
    where a step can't be run.
    """
    rounds = [
        {each: limits.varied(each, number - (repeats + 1) // 2) for each in sizes}
        for number in range(repeats + 1)
    ]
    steps.fill(max(each.blocks(limits.block_size) for run in rounds for each in run.values()))
    took: dict[Sizes, list[tuple[StepShape, int]]] = {each: [] for each in sizes}
    for number, run in enumerate(rounds):
        for each in random.Random(number).sample(list(sizes), len(sizes)):
            took[each].append(steps.took(run[each]))
            done()
    return [_timed(took[each][1:]) for each in sizes]


def _timed(took: Sequence[tuple[StepShape, int]]) -> Timed:
    shape, middle = _middle([shape for shape, _ in took]), median(ns for _, ns in took)
    return Timed(Row(shape, middle / 1e9), median(abs(ns - middle) for _, ns in took) / middle)


def _middle(shapes: Sequence[StepShape]) -> StepShape:
    return StepShape(*map(median_low, zip(*shapes, strict=True)))


class EngineSteps:
    """Makes plans of requests that nobody scheduled, over blocks in no order, and runs them."""

    tensor_parallel = 1
    notes = ("From a step's begin to its result: with the engine's work on the host, without a scheduler's.",)

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        caps, draw = engine.caps, random.Random(0)
        self.caps = caps
        self.source = (
            f"measured: {caps.name} engine of Brim {brim.__version__}, {caps.dtype} on {caps.device}"
        )
        self._engine = engine
        self._clock_ns = clock_ns
        self._block_size = caps.block_size
        self._blocks = draw.sample(range(caps.num_blocks), caps.num_blocks)
        self._tokens = tuple(draw.choices(range(caps.vocab_size), k=caps.max_model_len))
        self._num_steps = 0
        self._num_requests = 0
        self._released: tuple[str, ...] = ()

    def fill(self, num_blocks: int) -> None:
        """Of the first blocks there are."""
        blocks = iter(self._blocks[:num_blocks])
        size = self._block_size
        together = max(min(len(self._tokens), 1024) // size, 1)
        while table := list(islice(blocks, together)):
            tokens = min(len(table) * size, len(self._tokens))
            self._run([], [self._chunk(iter(table), 0, tokens)])

    def took(self, sizes: Sizes) -> tuple[StepShape, int]:
        """Runs one step. Raises ConfigError where the engine can't."""
        blocks = iter(self._blocks)
        decodes = [self._decode(blocks, sizes.context) for _ in range(sizes.decodes)]
        chunks = [self._chunk(blocks, sizes.start, sizes.chunk) for _ in range(sizes.prompts)]
        return sizes.shape, self._run(decodes, chunks)

    def _run(self, decodes: Sequence[RequestState], chunks: Sequence[Chunk]) -> int:
        states = (*decodes, *(chunk.state for chunk in chunks))
        plan = StepPlan(self._num_steps, tuple(decodes), tuple(chunks), states, self._released)
        self._num_steps += 1
        self._released = tuple(state.request.request_id for state in states)
        start_ns = self._clock_ns()
        try:
            self._engine.begin(plan)
            result = self._engine.finish()
        except (RuntimeError, MemoryError) as exc:  # memory that ran out is both, by device
            raise ConfigError(
                f"the engine can't run a step of {plan.num_tokens} tokens: {exc}; "
                "fewer --kv-tokens or --max-num-batched-tokens leave it more memory"
            ) from exc
        took_ns = self._clock_ns() - start_ns
        if result.errors:
            why = next(iter(result.errors.values()))
            raise ConfigError(f"the engine can't run a step of {plan.num_tokens} tokens: {why}")
        return took_ns

    def _decode(self, blocks: Iterator[int], context: int) -> RequestState:
        state = self._state(blocks, context)
        state.admit(context - 1)
        state.schedule(1)
        return state

    def _chunk(self, blocks: Iterator[int], start: int, num_tokens: int) -> Chunk:
        state = self._state(blocks, start + num_tokens)
        state.admit(start)
        return Chunk.scheduled(state, num_tokens)

    def _state(self, blocks: Iterator[int], num_tokens: int) -> RequestState:
        request = Request(f"measured-{self._num_requests}", self._tokens[:num_tokens], _ONE_TOKEN)
        state = RequestState(request, self._num_requests)
        self._num_requests += 1
        state.block_ids = list(islice(blocks, -(-num_tokens // self._block_size)))
        return state
