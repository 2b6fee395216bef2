"""What must be left when a request has entered, and when it may enter at all.

A request is *granted* when it has been promised the blocks of its output; until then it holds those of
its prompt and does not generate.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from brim.core.request import RequestView


class Admitting(Protocol):
    def spare_blocks(self, num_blocks: int) -> int:
        """Blocks, of `num_blocks` in all, that must be left after a request has entered.

        Not asked when nothing else runs: then a request enters if it fits at all.
        """

    def prompt_blocks(self, num_blocks: int, block_size: int) -> int:
        """Blocks that outputs may not take from prompts, so that prompts can always enter."""

    def allows(self, ungranted: Collection[RequestView], num_blocks: int, block_size: int) -> bool:
        """Whether these, the newcomer among them, may hold their prompts at the same time."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """A share of the KV cache, so that the next few tokens of the running don't preempt anybody."""

    share: float = 0.0

    def spare_blocks(self, num_blocks: int) -> int:
        return math.ceil(self.share * num_blocks)

    def prompt_blocks(self, num_blocks: int, block_size: int) -> int:
        return 0

    def allows(self, ungranted: Collection[RequestView], num_blocks: int, block_size: int) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class InverseGuard:
    """A reserve for answers that grow longer than expected, a floor for prompts, and its inverse.

    Prompts that enter freely can fill the cache so that none of them is ever granted its output: two of
    40 blocks that need 30 more each, in 100. So each must find its output's blocks beside all prompts;
    and all together may hold no more than the floor, since a prompt computed too early only fills KV.
    """

    reserve_share: float
    floor_tokens: int

    def spare_blocks(self, num_blocks: int) -> int:
        return math.ceil(self.reserve_share * num_blocks)

    def prompt_blocks(self, num_blocks: int, block_size: int) -> int:
        wanted = max(-(-self.floor_tokens // block_size), 1)
        return min(wanted, num_blocks // 8)  # in a small cache the floor must not be most of it

    def allows(self, ungranted: Collection[RequestView], num_blocks: int, block_size: int) -> bool:
        left = num_blocks - self.spare_blocks(num_blocks) - self.prompt_blocks(num_blocks, block_size)
        prompts = [max(len(view.block_ids), -(-view.num_tokens // block_size)) for view in ungranted]
        wholes = [-(-view.expected_tokens // block_size) for view in ungranted]
        needs = [whole - prompt for whole, prompt in zip(wholes, prompts, strict=True)]
        inside = len(prompts) == 1 or sum(prompts) <= self.prompt_blocks(num_blocks, block_size)
        return inside and max(needs, default=0) + sum(prompts) <= left
