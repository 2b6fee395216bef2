"""How long one step takes, from its sizes alone.

A step reads the weights once, multiplies them with every new token, and attends. So its time is a constant,
plus a convex function of the new tokens (flat while the weights are being read, then linear), plus one term
each for the attention of prompt chunks and of decodes:

    time = constant + per_token * new_tokens + sum(extra * max(0, new_tokens - knee) for knee, extra in knees)
         + per_pair * attention_pairs + per_decode * num_decodes + per_context * decode_context
         + in a step that also holds a chunk: mixed_decode * num_decodes + mixed_context * decode_context

The last line is there because a kernel that takes prompts and decodes together is slower at the decodes than
the one that takes decodes alone. For fixed rows, time is linear in `decode_context`.

Coefficients are integers in picoseconds, so that a stretch of steps summed in closed form equals the same
stretch stepped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from brim.core.errors import ConfigError
from brim.core.plan import Chunk

PICOSECONDS = 1_000_000_000_000  # in a second


class StepShape(NamedTuple):
    """The sizes of one step.

    `new_tokens` counts every token computed, decodes included. `attention_pairs` sums over the prompt chunks
    (new token, token it attends to); see `attention_pairs`. `decode_context` sums over the decodes the tokens
    they attend to, their own included.
    """

    new_tokens: int
    attention_pairs: int = 0
    num_decodes: int = 0
    decode_context: int = 0


def attention_pairs(num_tokens: int, start: int = 0) -> int:
    """Pairs of a prompt chunk `[start, start + num_tokens)`: each token attends to itself and all before."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


def shape_of(chunks: Sequence[Chunk], num_decodes: int, decode_context: int) -> StepShape:
    """The shape of a step. A chunk of one token is a decode: the same kernel runs it."""
    tokens, pairs = num_decodes, 0
    for _, start, num_tokens, _ in chunks:
        tokens += num_tokens
        if num_tokens == 1:
            num_decodes += 1
            decode_context += start + 1
        else:
            pairs += attention_pairs(num_tokens, start)
    return StepShape(tokens, pairs, num_decodes, decode_context)


@dataclass(frozen=True, slots=True)
class StepTime:
    """The coefficients, in picoseconds, none negative.

    `knees` are (tokens, extra for each token beyond them), by rising tokens. Raises ConfigError where a
    coefficient is negative, a knee out of order, or a step of one token would take no time.
    """

    constant_ps: int
    per_token_ps: int
    knees: tuple[tuple[int, int], ...]
    per_pair_ps: int
    per_decode_ps: int
    per_context_ps: int
    mixed_decode_ps: int = 0
    mixed_context_ps: int = 0

    def __post_init__(self) -> None:
        extras = [extra for _, extra in self.knees]
        terms = (
            self.constant_ps,
            self.per_token_ps,
            self.per_pair_ps,
            self.per_decode_ps,
            self.per_context_ps,
            self.mixed_decode_ps,
            self.mixed_context_ps,
        )
        if min(*terms, *extras) < 0:
            raise ConfigError(f"a step-time coefficient is negative; all must be 0 or more: {self}")
        tokens = [knee for knee, _ in self.knees]
        if tokens != sorted(set(tokens)) or min(tokens, default=0) < 0:
            raise ConfigError(f"the knees of a step time must be at rising token counts, not at {tokens}")
        if self.constant_ps + self.per_token_ps <= 0:
            raise ConfigError("a step would take no time; constant_ps or per_token_ps must be above 0")

    def picoseconds(self, shape: StepShape) -> int:
        """The time of one step that is not empty, ps."""
        tokens, pairs, decodes, context = shape
        total = (
            self.constant_ps
            + self.per_token_ps * tokens
            + self.per_pair_ps * pairs
            + self.per_decode_ps * decodes
            + self.per_context_ps * context
        )
        if tokens > decodes:
            total += self.mixed_decode_ps * decodes + self.mixed_context_ps * context
        for knee, extra in self.knees:
            if tokens <= knee:
                break
            total += extra * (tokens - knee)
        return total

    def seconds(self, shape: StepShape) -> float:
        return self.picoseconds(shape) / PICOSECONDS

    def line(self, num_decodes: int) -> tuple[int, int]:
        """(fixed, per_context), ps: decodes alone take `fixed + per_context * decode_context`."""
        return self.picoseconds(StepShape(num_decodes, 0, num_decodes, 0)), self.per_context_ps

    def target_forward_tokens(self, share: float = 0.95, largest: int = 8192) -> int:
        """The smallest forward size (tokens) that reaches `share` of the peak tokens/s up to `largest`.

        New tokens alone, without attention. Between two knees tokens/s only rises or only falls, so the peak
        lies at a knee or at an end.
        """
        ends = [1, largest, *(knee for knee, _ in self.knees if 1 <= knee <= largest)]
        peak = max(tokens / self.seconds(StepShape(tokens)) for tokens in ends)
        sizes = range(1, largest + 1)
        return next(n for n in sizes if n >= share * peak * self.seconds(StepShape(n)))
