"""How many tokens a step may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Filling(Protocol):
    def token_budget(self, now_ns: int) -> int: ...


@dataclass(frozen=True, slots=True)
class FixedBudget:
    """The same number in every step (`max_num_batched_tokens`)."""

    max_num_batched_tokens: int

    def token_budget(self, now_ns: int) -> int:
        return self.max_num_batched_tokens
