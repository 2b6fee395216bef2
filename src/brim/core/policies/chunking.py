"""How many tokens of a prompt a step takes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from brim.core.request import RequestView


class Chunking(Protocol):
    def tokens(self, view: RequestView, remaining: int, budget: int) -> int:
        """At most `remaining` and at most `budget`; 0 leaves the request out of this step."""


@dataclass(frozen=True, slots=True)
class FillTheBudget:
    """Whatever is left of the budget, at most `max_chunk_tokens` (0: no limit)."""

    max_chunk_tokens: int = 0

    def tokens(self, view: RequestView, remaining: int, budget: int) -> int:
        return min(remaining, budget, self.max_chunk_tokens or budget)


@dataclass(frozen=True, slots=True)
class WholePrompts:
    """A prompt runs in one step or waits; where it does not fit in half a step and more, it is cut.

    Else a long prompt would wait until nothing runs, and everybody behind it.
    """

    max_num_batched_tokens: int

    def tokens(self, view: RequestView, remaining: int, budget: int) -> int:
        if remaining <= budget or 2 * budget >= self.max_num_batched_tokens:
            return min(remaining, budget)
        return 0
