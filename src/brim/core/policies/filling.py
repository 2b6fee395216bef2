"""How many tokens a step may run, and whether prompts and outputs share it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Protocol


class Filling(Protocol):
    @property
    def prompts_alone(self) -> bool:
        """Whether those that generate sit out a step that runs prompts."""

    @property
    def token_budget(self) -> int:
        """Most tokens of a step."""

    @property
    def offline_tokens(self) -> int:
        """Most tokens of offline requests in a step; those that decode do so in any case."""


@dataclass(frozen=True, slots=True)
class FixedBudget:
    """The same number in every step: an engine's limit, a chunk size, or the target forward size."""

    token_budget: int
    prompts_alone: bool = False
    offline_tokens: int = sys.maxsize
