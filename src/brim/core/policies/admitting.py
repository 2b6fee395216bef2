"""How many blocks must stay available for an admission to be allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from brim.core.request import RequestView


class Admitting(Protocol):
    def spare_blocks(self, view: RequestView, num_blocks: int) -> int:
        """Blocks, of `num_blocks` in all, that must be left after the request has entered.

        Not asked when nothing else runs: then the request enters if it fits at all.
        """


@dataclass(frozen=True, slots=True)
class Watermark:
    """A share of the KV cache, so that the next few tokens of the running don't preempt anybody."""

    share: float = 0.0

    def spare_blocks(self, view: RequestView, num_blocks: int) -> int:
        return math.ceil(self.share * num_blocks)
