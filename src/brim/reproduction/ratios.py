"""What a curve over the rate says: the rate held at a latency, and the ratios that were claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

Curve = Sequence[tuple[float, float]]  # (rate, latency), by rising rates


class Held(NamedTuple):
    """The rate at which a latency is reached, and whether that lies outside what was measured."""

    rate: float
    beyond: str = ""  # "<": already the lowest rate is over it; ">": the highest is still under it

    def __str__(self) -> str:
        return f"{self.beyond}{self.rate:.3g}"


def held_at(curve: Curve, limit: float) -> Held:
    """The rate at which the curve first crosses `limit`, on the straight line of log(latency)."""
    if curve[0][1] > limit:
        return Held(curve[0][0], "<")
    for (low, under), (high, over) in pairwise(curve):
        if over > limit:
            share = math.log(limit / under) / math.log(over / under)
            return Held(low + share * (high - low))
    return Held(curve[-1][0], ">")


def change(new: float, old: float) -> float | None:
    """As a share of the old; None where that was nothing."""
    return new / old - 1 if old else None


class Packing(NamedTuple):
    """Requests that fit into a KV cache at the same time, on average, by what each one holds.

    A request holds its place once for every token it draws, so long answers weigh more: both means are
    over output tokens.
    """

    maximum: float  # prompt and the most the user asked for
    exact: float  # prompt and the whole answer
    written: float  # prompt and what is drawn of the answer: nobody can do better

    @property
    def gain(self) -> float:
        """Of perfect lending over exact allocation."""
        return self.written / self.exact


def packing(lengths: Sequence[tuple[int, int]], kv_tokens: int, max_output: int) -> Packing:
    """Of (prompt, answer) tokens; blocks are not rounded."""
    drawn = sum(answer for _, answer in lengths)
    held = [
        sum(answer * (prompt + most(answer)) for prompt, answer in lengths) / drawn
        for most in (lambda _: max_output, lambda answer: answer, lambda answer: answer / 2)
    ]
    return Packing(*(kv_tokens / tokens for tokens in held))
