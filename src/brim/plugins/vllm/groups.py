"""vLLM's KV cache with layers of several kinds, as the one table of blocks that Brim counts.

Layers of one kind are a group with a block table of its own; all groups take blocks from one pool. Brim
counts the table of the layers that attend to everything. What layers with a window hold besides is
taken off what there is: a request holds at most its window in each, from then on blocks only change.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from brim.core.kvcache.hosted import Beside
from brim.plugins.vllm.compat import kept_tokens, table_group


class _Alike(NamedTuple):
    """Groups whose tables are equally long."""

    generating: Beside
    prompting: Beside  # a step writes before it leaves anything behind
    tables: Any  # of one of them, by request


class Groups:
    def __init__(self, scheduler: Any) -> None:
        managers = scheduler.kv_cache_manager.coordinator.single_type_managers
        self._scheduler = scheduler
        self._pool = scheduler.kv_cache_manager.block_pool
        self.number = table_group(managers)
        self.tables = managers[self.number].req_to_blocks
        self.block_size: int = managers[self.number].block_size
        others = [manager for number, manager in enumerate(managers) if number != self.number]
        self._others = _alike(others, scheduler.max_model_len, scheduler.max_num_scheduled_tokens)
        self.beside = [other.prompting for other in self._others]
        self._seen: tuple[int, int] | None = None
        self._wanted = self._lacking = 0  # blocks beside the table, of all who run

    @property
    def several(self) -> bool:
        return bool(self._others)

    @property
    def most_blocks(self) -> int:
        """What the table may have where nobody runs; one block is vLLM's own placeholder."""
        return int(self._pool.num_gpu_blocks) - 1

    @property
    def num_blocks(self) -> int:
        """What it may have beside what all who run hold in other groups."""
        if self._others:
            self._look()
        return self.most_blocks - self._wanted

    @property
    def free_blocks(self) -> int:
        """What it can still take; below 0 where that was not to be foreseen."""
        free = int(self._pool.get_num_free_blocks())
        if not self._others or len(self._scheduler.running) == 1:  # then nothing has to be left for others
            return free
        self._look()
        return free - self._lacking

    def _look(self) -> None:
        seen = self._pool.get_num_free_blocks(), len(self._scheduler.running)
        if seen == self._seen:
            return
        self._seen, self._wanted, self._lacking = seen, 0, 0
        for request in self._scheduler.running:
            for other in self._others:
                each = other.prompting if request.is_prefill_chunk else other.generating
                wanted = each.blocks_for(request.num_tokens + 1)
                held = each.num_tables * len(other.tables[request.request_id])
                self._wanted += wanted
                self._lacking += max(wanted - held, 0)


def _alike(managers: list[Any], max_model_len: int, step_tokens: int) -> list[_Alike]:
    kinds = Counter((manager.block_size, kept_tokens(manager)) for manager in managers)
    tables = {(manager.block_size, kept_tokens(manager)): manager.req_to_blocks for manager in managers}
    found = []
    for (size, kept), count in kinds.items():
        longest = -(-max_model_len // size)
        generating = prompting = longest
        if kept is not None:
            generating = min(-(-kept // size) + 1, longest)
            prompting = min(-(-(kept - 1 + step_tokens) // size) + 1, longest)
        found.append(
            _Alike(Beside(count, size, generating), Beside(count, size, prompting), tables[size, kept])
        )
    return found
