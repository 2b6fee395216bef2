"""A profile of the engine at hand: its own steps, measured on the machine that it will serve on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import mean

from brim.core.errors import ConfigError
from brim.engines.base import EngineCaps
from brim.profiles.loader import Memory, Profile, PublishedCapacity
from brim.profiling.engine_steps import Grid, Limits, Sizes, Steps, Timed, timed_steps
from brim.profiling.fitting import Row, fit
from brim.profiling.gpus import ACTIVATION_BYTES

KINDS = {"decode", "prefill", "mixed"}
LEAST_TOKENS = 2048  # of a KV cache in which every kind of step has sizes to fit and to hold back


@dataclass(frozen=True, slots=True)
class Measurement:
    """Steps of one engine that are to be timed. Raises ConfigError where too few fit in its KV cache."""

    steps: Steps
    sizes: tuple[Sizes, ...]
    repeats: int
    limits: Limits

    @classmethod
    def of(cls, steps: Steps, grid: Grid, max_num_seqs: int, max_num_batched_tokens: int) -> Measurement:
        caps = steps.caps
        limits = Limits(
            max_num_seqs, max_num_batched_tokens, caps.max_model_len, caps.num_blocks, caps.block_size
        )
        return cls(steps, tuple(grid.sizes(limits)), grid.repeats, limits)

    def __post_init__(self) -> None:
        rows = [Row(sizes.shape, 0.0) for sizes in self.sizes]
        for held_back in (True, False):
            if {row.kind for row in rows if row.held_back == held_back} != KINDS:
                raise ConfigError(
                    "too few steps fit to tell how long others take: give a KV cache of "
                    f"{LEAST_TOKENS} tokens or more, and requests that may have as many"
                )

    @property
    def num_steps(self) -> int:
        """Steps that are run, those that warm up included."""
        return len(self.sizes) * (self.repeats + 1)

    def run(self, name: str, *, done: Callable[[], None] = lambda: None) -> Profile:
        """Times the steps and fits a profile to them; `done` hears of each step. Raises ConfigError."""
        caps = self.steps.caps
        memory, hardware = _memory(caps)
        timed = timed_steps(self.steps, self.sizes, self.repeats, self.limits, done=done)
        rows = [each.row for each in timed]
        step_time, found = fit(rows)
        largest = max(row.shape.new_tokens for row in rows)
        return Profile(
            name=name,
            gpu=hardware,
            model=caps.model,
            tensor_parallel=self.steps.tensor_parallel,
            kind="fitted",
            source=self.steps.source,
            date=date.today().isoformat(),
            notes=self._notes(timed),
            step_time=step_time,
            fit=found,
            memory=memory,
            target_forward_tokens=step_time.target_forward_tokens(largest=largest),
        )

    def _notes(self, timed: Sequence[Timed]) -> tuple[str, ...]:
        spread = mean(each.spread for each in timed)
        tokens = max(each.row.shape.new_tokens for each in timed)
        context = max(sizes.longest for sizes in self.sizes)
        return (
            f"{len(timed)} steps, each the median of {self.repeats} that were taken in turns; half of the "
            f"repeats lie within {spread:.1%} of their median.",
            *self.steps.notes,
            f"Up to {tokens} tokens a step and {context} tokens a request: what is larger is extrapolated.",
        )


def _memory(caps: EngineCaps) -> tuple[Memory, str]:
    """Its KV cache is as large as the engine made it. Raises ConfigError for an engine without a model."""
    footprint = caps.footprint
    if footprint is None:
        raise ConfigError(f"the {caps.name} engine runs no model: there is nothing to measure")
    memory = Memory(
        footprint.memory_bytes,
        footprint.weight_bytes,
        ACTIVATION_BYTES,
        footprint.kv_bytes_per_token,
        PublishedCapacity(caps.num_blocks * caps.block_size, "the KV cache of the engine measured"),
    )
    return memory, footprint.hardware
