"""The only door to the KV cache: tables of blocks for requests, and prefixes found again.

    tokens   |<------- num_computed ------->|<- this step ->|
    blocks   [ hit ][ hit ][ own ][ own ]...[ own ][ own  ..]
             shared, never written           written by one request

A request enters with blocks for all its known tokens, so that a half-done prompt can never get stuck
in want of memory; each further block is handed out when decoding reaches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from brim.core.errors import InvariantViolated
from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.eviction import Eviction, LeastRecentlyUsed
from brim.core.kvcache.prefix_index import BlockHash, BlockHashing, TokenHashing
from brim.core.request import RequestState, RequestView


class _Content:
    """Of one request: the hashes of its whole blocks, and how many of its blocks are published."""

    __slots__ = ("hashes", "num_published")

    def __init__(self) -> None:
        self.hashes: list[BlockHash] = []
        self.num_published = 0


class KVCacheManager:
    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_caching: bool = True,
        eviction: Eviction | None = None,
        hashing: BlockHashing | None = None,
    ) -> None:
        self.block_size = block_size
        self._prefix_caching = prefix_caching
        self._hashing = hashing or TokenHashing()
        self._pool = BlockPool(num_blocks, eviction or LeastRecentlyUsed())
        self._contents: dict[str, _Content] = {}

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def free_blocks(self) -> int:
        return self._pool.num_free

    @property
    def cached_blocks(self) -> int:
        return self._pool.num_cached

    @property
    def used_blocks(self) -> int:
        return self._pool.num_used

    @property
    def promised_blocks(self) -> int:
        """Used blocks, and those that are promised and not yet written."""
        return self._pool.num_used

    @property
    def lent_blocks(self) -> int:
        """Used blocks that were promised to somebody else."""
        return 0

    @property
    def available_blocks(self) -> int:
        """Free and evictable."""
        return self._pool.num_available

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def hit_blocks(self, view: RequestView) -> list[int]:
        """Block ids of the longest cached prefix; never the last known token, which has to run."""
        if not self._prefix_caching:
            return []
        usable = (view.num_tokens - 1) // self.block_size
        return self._pool.index.match(self._hashes(view)[:usable])

    def admission_blocks(self, view: RequestView) -> int:
        """How many available blocks an admission uses up: its new ones, and hits nobody holds now."""
        return self._cost(view, self.hit_blocks(view))

    def freeable_blocks(self, tables: Sequence[Sequence[int]]) -> int:
        """How many blocks become available when all these tables are given up."""
        given_up = Counter(block_id for table in tables for block_id in table)
        return sum(self._pool.ref_count(block_id) == times for block_id, times in given_up.items())

    def admit(self, state: RequestState) -> int | None:
        """Gives the request blocks for all its known tokens; returns how many tokens were cached.

        None, and nothing done, where `admission_blocks` are not available.
        """
        hits = self.hit_blocks(state)
        if self._cost(state, hits) > self._pool.num_available:
            return None
        for block_id in hits:
            self._pool.hold(block_id)
        fresh = self.blocks_for(state.num_tokens) - len(hits)
        state.block_ids = hits + [self._pool.take() for _ in range(fresh)]
        self._contents.setdefault(state.request.request_id, _Content()).num_published = len(hits)
        return len(hits) * self.block_size

    def grow(self, state: RequestState, num_tokens: int) -> bool:
        """Makes the table cover `num_tokens`. False, and nothing done, where blocks are lacking."""
        lacking = self.blocks_for(num_tokens) - len(state.block_ids)
        if lacking > self._pool.num_available:
            return False
        for _ in range(lacking):
            state.block_ids.append(self._pool.take())
        return True

    def publish_computed(self, state: RequestState) -> None:
        """Lets prefixes find the blocks that are computed whole.

        For prompts when their chunks are committed; for the output when the request leaves the batch,
        since hashing it block by block would cost a step more than appending its tokens does.
        """
        if not self._prefix_caching or not state.block_ids:
            return
        content = self._contents[state.request.request_id]
        whole = state.num_computed_tokens // self.block_size
        if whole > content.num_published:
            hashes = self._hashes(state)
            for i in range(content.num_published, whole):
                self._pool.publish(state.block_ids[i], hashes[i])
            content.num_published = whole

    def detach(self, state: RequestState) -> list[int]:
        """Takes the table away from the request; its blocks stay used until they are given back."""
        block_ids, state.block_ids = state.block_ids, []
        return block_ids

    def give_back(self, block_ids: Sequence[int]) -> None:
        """Releases a detached table."""
        self._pool.release(reversed(block_ids))

    def forget(self, request_id: str) -> None:
        """The request is over: its hashes are not needed any more."""
        self._contents.pop(request_id, None)

    def check(self, states: Iterable[RequestState], detached: Iterable[Sequence[int]] = ()) -> None:
        """Verifies that free + cached + used = all and every reference. Raises InvariantViolated."""
        states = list(states)
        tables = [*(state.block_ids for state in states), *detached]
        self._pool.check(block_id for table in tables for block_id in table)
        for state in states:
            if len(set(state.block_ids)) != len(state.block_ids):
                raise InvariantViolated(f"{state} has a block twice")
            if self.blocks_for(state.num_scheduled_tokens) > len(state.block_ids):
                raise InvariantViolated(f"{state} writes beyond its {len(state.block_ids)} blocks")
            writes_from = state.num_computed_tokens // self.block_size
            if any(self._pool.ref_count(block_id) > 1 for block_id in state.block_ids[writes_from:]):
                raise InvariantViolated(f"{state} writes into a shared block")

    def _cost(self, view: RequestView, hits: Sequence[int]) -> int:
        held = sum(self._pool.ref_count(block_id) > 0 for block_id in hits)
        return self.blocks_for(view.num_tokens) - held

    def _hashes(self, view: RequestView) -> list[BlockHash]:
        content = self._contents.setdefault(view.request.request_id, _Content())
        if (len(content.hashes) + 1) * self.block_size <= view.num_tokens:
            self._hashing.extend(content.hashes, view, self.block_size)
        return content.hashes
