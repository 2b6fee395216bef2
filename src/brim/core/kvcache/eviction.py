"""Which cached block loses its content first: a rule is a key, and the smallest dies."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol


class Block:
    """One block: who holds it and what it contains.

    `block_hash` is set while its content is whole and can be found by prefix; `released_seq` counts
    releases, so that a smaller number was released earlier.
    """

    __slots__ = ("block_hash", "block_id", "ref_count", "released_seq")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_count = 0
        self.block_hash: Hashable = None
        self.released_seq = 0

    def __repr__(self) -> str:
        content = "empty" if self.block_hash is None else "cached"
        return f"<block {self.block_id} refs={self.ref_count} {content}>"


class Eviction(Protocol):
    def key(self, block: Block) -> tuple[int, ...]:
        """Of the cached blocks nobody holds, the one with the smallest key is evicted first.

        The key must not change while the block stays cached and unheld.
        """


class LeastRecentlyUsed:
    """The block released longest ago. A table is released from its end, so leaves die before parents."""

    def key(self, block: Block) -> tuple[int, ...]:
        return (block.released_seq,)
