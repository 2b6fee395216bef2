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

    def allows(
        self, ungranted: Collection[RequestView], num_blocks: int, block_size: int, available_blocks: int
    ) -> bool:
        """Whether these, the newcomer among them, may hold their prompts at the same time.

        `available_blocks` are promised to nobody; the newcomer's prompt has still to come out of them.
        """


@dataclass(frozen=True, slots=True)
class Watermark:
    """A share of the KV cache, so that the next few tokens of the running don't preempt anybody."""

    share: float = 0.0

    def spare_blocks(self, num_blocks: int) -> int:
        return math.ceil(self.share * num_blocks)

    def prompt_blocks(self, num_blocks: int, block_size: int) -> int:
        return 0

    def allows(
        self, ungranted: Collection[RequestView], num_blocks: int, block_size: int, available_blocks: int
    ) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class InverseGuard:
    """A reserve for answers that grow longer than expected, a floor for prompts, and its inverse.

    Prompts that enter freely can fill the cache so that none of them is ever granted its output: two of
    40 blocks that need 30 more each, in 100. So each must find its output's blocks beside all prompts; and
    unless all could be granted at once, they may hold no more than the floor together: a prompt computed
    too early only fills KV.
    """

    reserve_share: float
    floor_tokens: int

    def spare_blocks(self, num_blocks: int) -> int:
        return math.ceil(self.reserve_share * num_blocks)

    def prompt_blocks(self, num_blocks: int, block_size: int) -> int:
        wanted = max(-(-self.floor_tokens // block_size), 1)
        return min(wanted, num_blocks // 8)  # in a small cache the floor must not be most of it

    def allows(
        self, ungranted: Collection[RequestView], num_blocks: int, block_size: int, available_blocks: int
    ) -> bool:
        floor, spare = self.prompt_blocks(num_blocks, block_size), self.spare_blocks(num_blocks)
        prompts = [max(len(view.block_ids), -(-view.num_tokens // block_size)) for view in ungranted]
        wholes = [-(-view.expected_tokens // block_size) for view in ungranted]
        held = sum(len(view.block_ids) for view in ungranted)
        if sum(wholes) - held <= available_blocks - spare - floor:
            return True  # all could be granted at once: there is room enough
        needs = [whole - prompt for whole, prompt in zip(wholes, prompts, strict=True)]
        inside = len(prompts) == 1 or sum(prompts) <= floor
        return inside and max(needs, default=0) + sum(prompts) <= num_blocks - spare - floor
