"""How many blocks online requests hold, each counted once however many share it."""

from __future__ import annotations

from collections.abc import Iterable


class OnlineBlocks(dict[int, int]):
    """By block, how many online requests hold it; none that nobody holds."""

    def hold(self, block_ids: Iterable[int]) -> None:
        """An online request holds them as well."""
        for block_id in block_ids:
            self[block_id] = self.get(block_id, 0) + 1

    def release(self, block_ids: Iterable[int]) -> None:
        for block_id in block_ids:
            if self[block_id] == 1:
                del self[block_id]
            else:
                self[block_id] -= 1
