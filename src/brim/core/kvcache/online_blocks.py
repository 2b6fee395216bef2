"""How many blocks online requests hold, each counted once however many share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class OnlineBlocks:
    def __init__(self) -> None:
        self._holders: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._holders)

    def hold(self, block_ids: Iterable[int]) -> None:
        """An online request holds them as well."""
        self._holders.update(block_ids)

    def release(self, block_ids: Iterable[int]) -> None:
        holders = self._holders
        for block_id in block_ids:
            if holders[block_id] == 1:
                del holders[block_id]
            else:
                holders[block_id] -= 1
