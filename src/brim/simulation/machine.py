"""How long a machine takes for a step: the model's time and the engine's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs, shape_of
from brim.core.plan import Chunk
from brim.profiles.unevenness import EVEN, Unevenness


@dataclass(frozen=True, slots=True)
class Machine:
    """`overhead_ps` is the host's time for each step, `per_sequence_ps` for each request in it.

    `target_forward_tokens` is the step that fills its compute. What it says a step takes is the usual: a
    replica makes each longer or shorter by the `unevenness`.
    """

    step_time: StepTime
    target_forward_tokens: int
    overhead_ps: int = 0
    per_sequence_ps: int = 0
    unevenness: Unevenness = EVEN

    def picoseconds(self, shape: StepShape, num_sequences: int) -> int:
        return self.step_time.picoseconds(shape) + self.overhead_ps + self.per_sequence_ps * num_sequences

    def shape(self, chunks: Sequence[Chunk], num_decodes: int, decode_context: int) -> StepShape:
        """What this machine computes of a step."""
        return shape_of(chunks, num_decodes, decode_context)

    def line(self, num_decodes: int) -> tuple[int, int]:
        """Decodes alone take `fixed + per_context * decode_context` ps: these two."""
        fixed, per_context = self.step_time.line(num_decodes)
        return fixed + self.overhead_ps + self.per_sequence_ps * num_decodes, per_context

    def alone_ps(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> tuple[int, int]:
        """The rest of a prompt in one step, and a decode at the mean context of the answer; nobody else."""
        pairs = attention_pairs(prompt_tokens) - attention_pairs(cached_tokens)
        prompt = StepShape(prompt_tokens - cached_tokens, pairs)
        decode = StepShape(1, 0, 1, prompt_tokens + (output_tokens + 1) // 2)
        return self.picoseconds(prompt, 1), self.picoseconds(decode, 1)
