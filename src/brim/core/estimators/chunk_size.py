"""How large a prompt chunk may be for a step to end in time."""

from __future__ import annotations

from collections.abc import Callable

from brim.core.estimators.due_times import DueTimes
from brim.core.estimators.step_time import StepShape, attention_pairs

Predict = Callable[[StepShape], int]  # nanoseconds of a step of these sizes


def with_chunk(shape: StepShape, num_tokens: int, start: int) -> StepShape:
    """The step with the chunk `[start, start + num_tokens)` as well; one token is a decode to the kernels."""
    if num_tokens == 1:
        return with_decode(shape, start + 1)
    tokens, pairs, decodes, context = shape
    return StepShape(tokens + num_tokens, pairs + attention_pairs(num_tokens, start), decodes, context)


def with_decode(shape: StepShape, context: int) -> StepShape:
    """The step with one more decode, which attends to `context` tokens, its own included."""
    return with_decodes(shape, 1, context)


def with_decodes(shape: StepShape, num: int, context: int) -> StepShape:
    """The step with so many decodes more, which attend to `context` tokens together."""
    tokens, pairs, decodes, decode_context = shape
    return StepShape(tokens + num, pairs, decodes + num, decode_context + context)


def largest_chunk(predict: Predict, others: StepShape, start: int, most: int, limit_ns: int) -> int:
    """The most tokens from `start` on, up to `most`, that a step with the `others` computes within the limit.

    0 where not even one fits. A bisection: `predict` may only rise with the tokens.
    """

    def fits(num_tokens: int) -> bool:
        return predict(with_chunk(others, num_tokens, start)) <= limit_ns

    if most < 1 or fits(most):
        return max(most, 0)
    if most == 1 or not fits(2):  # one token is a decode, and may well take longer than two
        return int(fits(1))
    low, high = 2, most  # fits, doesn't fit
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def chunk_at_pace(predict: Predict, dues: DueTimes, decodes: StepShape, start: int, most: int) -> int:
    """The most tokens from `start` on that every step may run for those who decode: 1 to `most`.

    A pace that is not kept without any can't be kept, and holds up nobody.
    """
    alone_ns = predict(decodes) if decodes.num_decodes else 0
    pace_ns = dues.least_pace_ns(alone_ns)
    return most if pace_ns is None else largest_chunk(predict, decodes, start, most, pace_ns) or 1
