"""How full an engine is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopStats:
    """Sizes of this moment. `kv_usage` is the share of blocks held by running requests, 0 to 1."""

    num_running: int
    num_waiting_online: int
    num_waiting_offline: int
    kv_usage: float
    used_blocks: int
    cached_blocks: int
    free_blocks: int
    promised_blocks: int
    lent_blocks: int

    @property
    def num_waiting(self) -> int:
        return self.num_waiting_online + self.num_waiting_offline
