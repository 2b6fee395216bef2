"""The grid of steps that profiles made of kernel times are fitted to: decodes, prompts, and both together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Protocol

from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.profiling.fitting import Row

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (64, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHUNKS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
STARTS = (0, 512, 2048, 8192)
PROMPTS = (2, 4, 8, 16, 32)
LARGEST_STEP = 8192  # tokens


class StepTimes(Protocol):
    """Times of the parts of a step; see `Kernels`, which has them from tables."""

    def decode_attention(self, batch: int, context: int) -> float: ...
    def chunk_attention(self, num_tokens: int, start: int) -> float: ...
    def prompts_attention(self, batch: int, length: int) -> float: ...
    def seconds(self, tokens: int, attention: float, sampled: int) -> float: ...


def steps(times: StepTimes, kv_tokens: int) -> list[Row]:
    """Every step of the grid whose context fits in `kv_tokens`."""
    return [
        *_decode_steps(times, kv_tokens),
        *_chunk_steps(times),
        *_prompt_steps(times),
        *_mixed(times, kv_tokens),
    ]


def _decode_steps(times: StepTimes, kv_tokens: int) -> Iterator[Row]:
    for batch, context in product(BATCHES, CONTEXTS):
        if batch * context <= kv_tokens:
            yield _step(times, batch, context, 0, 0)


def _chunk_steps(times: StepTimes) -> Iterator[Row]:
    for chunk, start in product(CHUNKS, STARTS):
        yield _step(times, 0, 0, chunk, start)


def _mixed(times: StepTimes, kv_tokens: int) -> Iterator[Row]:
    for batch, context, chunk, start in product(BATCHES, CONTEXTS[1:6:2], CHUNKS[2:-2], STARTS[::2]):
        if batch * context + start + chunk <= kv_tokens:
            yield _step(times, batch, context, chunk, start)


def _prompt_steps(times: StepTimes) -> Iterator[Row]:
    """Several whole prompts in one step."""
    for batch, length in product(PROMPTS, CHUNKS):
        if batch * length <= LARGEST_STEP:
            shape = StepShape(batch * length, batch * attention_pairs(length))
            attention = times.prompts_attention(batch, length)
            yield Row(shape, times.seconds(shape.new_tokens, attention, batch))


def _step(times: StepTimes, batch: int, context: int, chunk: int, start: int) -> Row:
    """`batch` decodes that attend to `context` tokens each, and one chunk."""
    shape = StepShape(batch + chunk, attention_pairs(chunk, start), batch, batch * context)
    attention = times.decode_attention(batch, context) + times.chunk_attention(chunk, start)
    return Row(shape, times.seconds(shape.new_tokens, attention, batch + bool(chunk)))
