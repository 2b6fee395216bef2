"""Steps from DistServe's published fits of vLLM on A100: formulas for whole prefill and decode steps.

    prefill ms = a + b * tokens + c * sum(length^2)        decode ms = a + b * sum(context) + c * batch

with one decode formula for small batches and one for large. A mixed step isn't published: here it is the
decode step plus what the prompt tokens add to a prefill step (b and c), since both read the weights once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.profiling.fitting import Row
from brim.profiling.steps import BATCHES
from brim.profiling.tables import records

MS = 1e-3
FITS = "simdistserve/profiler-a100-80g.vllm.json"
CAPACITIES = "simdistserve/max_num_tokens.csv"
CONTEXTS = (64, 256, 512, 1024, 2048)  # OPT ends at 2048 tokens
CHUNKS = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
PROMPTS = (1, 2, 4)


@dataclass(frozen=True)
class Formulas:
    """The fits of one model under one tensor parallelism."""

    folder: Path
    model: str
    tensor_parallel: int

    def steps(self, kv_tokens: int) -> list[Row]:
        """Decode, prefill and mixed steps whose context fits in `kv_tokens`."""
        fits = self._fits()
        decodes = [(b, c) for b, c in product(BATCHES, CONTEXTS) if b * c <= kv_tokens]
        alone = (_decode(fits, batch, context) for batch, context in decodes)
        mixed = (
            row
            for (batch, context), chunk in product(decodes[1::3], CHUNKS)
            for row in _mixed(fits, batch, context, chunk)
            if batch * context + chunk <= kv_tokens
        )
        prompts = (_prefill(fits, count, chunk) for count, chunk in product(PROMPTS, CHUNKS))
        return [*alone, *prompts, *mixed]

    def capacity(self) -> int:
        """Tokens of KV cache that vLLM had, as published."""
        for row in records(self.folder / CAPACITIES):
            if (row["model"], row["tp"], row["pp"]) == (self.model, str(self.tensor_parallel), "1"):
                return int(row["max_num_tokens"])
        raise ConfigError(f"{self.folder / CAPACITIES} has no {self.model} at tp {self.tensor_parallel}")

    def _fits(self) -> dict[str, Any]:
        path = self.folder / FITS
        if not path.is_file():
            raise ConfigError(f"{path} is missing; --data must be the folder that docs/profiles.md describes")
        fits: dict[str, Any] = json.loads(path.read_text())[self.model][str(self.tensor_parallel)]
        return fits


def _decode(fits: dict[str, Any], batch: int, context: int) -> Row:
    size = "small" if batch < fits["decoding_large_small_bs_threshold"] else "large"
    constant, per_context, per_decode = fits[f"decoding_{size}bs"]
    milliseconds = constant + per_context * batch * context + per_decode * batch
    return Row(StepShape(batch, 0, batch, batch * context), MS * milliseconds)


def _prefill(fits: dict[str, Any], count: int, length: int) -> Row:
    constant, per_token, per_square = fits["prefill"]
    milliseconds = constant + per_token * count * length + per_square * count * length**2
    return Row(StepShape(count * length, count * attention_pairs(length)), MS * milliseconds)


def _mixed(fits: dict[str, Any], batch: int, context: int, chunk: int) -> Iterator[Row]:
    """A first chunk, and one behind half of what the model can hold."""
    _, per_token, per_square = fits["prefill"]
    decode = _decode(fits, batch, context)
    for start in (0, 1024):
        added = per_token * chunk + per_square * ((start + chunk) ** 2 - start**2)
        shape = StepShape(batch + chunk, attention_pairs(chunk, start), batch, batch * context)
        yield Row(shape, decode.seconds + MS * added)
