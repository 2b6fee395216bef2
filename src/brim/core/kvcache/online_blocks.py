"""How many blocks online requests hold, each counted once however many share it."""

from __future__ import annotations

from collections.abc import Iterable


class OnlineBlocks:
    def __init__(self, num_blocks: int) -> None:
        self._holders = [0] * num_blocks
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def hold(self, block_ids: Iterable[int]) -> None:
        """An online request holds them as well."""
        holders = self._holders
        for block_id in block_ids:
            self._held += not holders[block_id]
            holders[block_id] += 1

    def release(self, block_ids: Iterable[int]) -> None:
        holders = self._holders
        for block_id in block_ids:
            holders[block_id] -= 1
            self._held -= not holders[block_id]
