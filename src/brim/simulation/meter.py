"""How full compute and KV cache are over time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brim.core.kvcache.manager import KVCacheManager


@dataclass(slots=True)
class Totals:
    """Sums since time 0. Differences of two of them are the figures of the time between."""

    steps: int = 0
    tokens: int = 0  # computed, those of prompts included
    busy_ps: int = 0
    written: int = 0  # twice the block-nanoseconds in use
    promised: int = 0  # and the same of those promised
    lent: int = 0  # and lent


class Meter:
    """Adds up what the steps of one replica use.

    The KV cache is read whenever a step changes who runs, before and after; between two readings its use
    is taken as a straight line. So a quiet stretch costs nothing, and counts the same however it is taken.
    """

    def __init__(self, kv: KVCacheManager) -> None:
        self._kv = kv
        self._totals = Totals()
        self.read_ns = 0  # when the use of the KV cache was entered last
        self._reading = (0, 0, 0)
        self._busy_until_ps = 0

    def read(self) -> tuple[int, int, int]:
        """Blocks in use, promised and lent at this moment."""
        used_blocks, ledger = self._kv.used_blocks, self._kv.ledger
        return used_blocks, used_blocks + ledger.promised, ledger.lent

    def enter(self, now_ns: int, reading: tuple[int, int, int]) -> None:
        """The use of the KV cache at `now_ns`; not before the last one entered."""
        elapsed_ns = now_ns - self.read_ns
        if elapsed_ns:
            totals, before = self._totals, self._reading
            totals.written += (before[0] + reading[0]) * elapsed_ns
            totals.promised += (before[1] + reading[1]) * elapsed_ns
            totals.lent += (before[2] + reading[2]) * elapsed_ns
            self.read_ns = now_ns
        self._reading = reading

    def steps(self, num_steps: int, num_tokens: int, busy_ps: int, end_ps: int) -> None:
        """Steps that were begun, the last of them to end at `end_ps`."""
        totals = self._totals
        totals.steps += num_steps
        totals.tokens += num_tokens
        totals.busy_ps += busy_ps
        self._busy_until_ps = end_ps

    def totals(self, now_ns: int) -> Totals:
        """Up to this moment; of steps under way, only what has passed of them counts as busy."""
        self.enter(now_ns, self.read())
        return replace(self._totals, busy_ps=self.busy_ps(now_ns))

    def busy_ps(self, now_ns: int) -> int:
        """The same for the time that steps took alone; enters nothing."""
        return self._totals.busy_ps - max(self._busy_until_ps - now_ns * 1000, 0)
