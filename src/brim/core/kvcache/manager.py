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
from brim.core.kvcache.block_pool import Blocks
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.online_blocks import OnlineBlocks
from brim.core.kvcache.prefix_index import (
    BlockHash,
    BlockHashing,
    Run,
    TokenHashing,
    ToldCache,
)
from brim.core.request import RequestState, RequestView


class NoSteps:
    """The clock of a cache that is used without a scheduler."""

    tick = 0


class Content:
    """Of one request: the hashes of its whole blocks, how far they are cached, how many it has published."""

    __slots__ = ("cached", "hashes", "num_published")

    def __init__(self) -> None:
        self.hashes: list[BlockHash] = []
        self.cached = Run()
        self.num_published = 0


class KVCacheManager:
    waits_for_steps = True  # blocks that are given up stay used until the steps in flight are over

    def __init__(
        self,
        pool: Blocks,
        block_size: int,
        prefix_caching: bool = True,
        hashing: BlockHashing | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.block_size = block_size
        self._prefix_caching = prefix_caching
        self._hashing = hashing or TokenHashing()
        self._pool = pool
        self._online = OnlineBlocks() if pool.eviction.by_class else None
        self._contents: dict[str, Content] = {}
        self.ledger = Ledger(block_size, NoSteps()) if ledger is None else ledger

    @property
    def eviction(self) -> Eviction:
        """The rule that says who is evicted."""
        return self._pool.eviction

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
        """Used blocks, and those promised and not yet written: more than there are, where some are lent."""
        return self._pool.num_used + self.ledger.promised

    @property
    def lent_blocks(self) -> int:
        """Used blocks that were promised to somebody else."""
        return self.ledger.lent

    @property
    def forecast_blocks(self) -> int:
        """Free and evictable, less what those with a promise will need of it at the worst coming step."""
        return self._pool.num_available - self.ledger.timetable.unwritten

    @property
    def ordinary_blocks(self) -> int:
        """Of the blocks free or evictable, and of those lent, what is promised to no host."""
        return self._pool.num_available - self.ledger.kept_for_hosts

    @property
    def available_blocks(self) -> int:
        """Free and evictable, and promised to nobody."""
        return self._pool.num_available - self.ledger.unwritten

    @property
    def online_blocks(self) -> int:
        """Blocks that online requests hold; 0 where eviction does not go by class, and nobody counts them."""
        return 0 if self._online is None else len(self._online)

    def wanted_among(self, count: int) -> int:
        """Of so many blocks, taken now, how many would lose a content that somebody waits for."""
        return self._pool.wanted_among(count)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def hit_blocks(self, view: RequestView) -> list[int]:
        """Block ids of the longest cached prefix; never the last known token, which has to run."""
        return self._pool.index.match(self.usable_hashes(view))

    def num_hits(self, view: RequestView, cache: ToldCache | None) -> int:
        """How many blocks `hit_blocks` finds. Walks only over those that `cache` was not told of.

        It is told of all of our own blocks; of a host's, of those computed since it observes the host.
        """
        if not self._prefix_caching:
            return 0
        content = self._content(view)
        hashes = content.hashes
        most = min((view.num_tokens - 1) // self.block_size, len(hashes))
        told = 0 if cache is None else content.cached.look(hashes, most, cache)
        return told + len(self._pool.index.match(map(hashes.__getitem__, range(told, most))))

    def usable_hashes(self, view: RequestView) -> Sequence[BlockHash]:
        """Names of the whole blocks that a hit may use; kept until `forget`."""
        if not self._prefix_caching:
            return ()
        return self._content(view).hashes[: (view.num_tokens - 1) // self.block_size]

    def admission_blocks(self, view: RequestView, cached: Sequence[BlockHash] | None = None) -> int:
        """How many available blocks an admission uses up: its new ones, and hits nobody holds now.

        `cached` are the hashes of its hits, where somebody knows them; else its tokens are hashed.
        """
        hits = self.hit_blocks(view) if cached is None else self._pool.index.match(cached)
        return self._cost(view, hits)

    def freeable_blocks(self, tables: Sequence[Sequence[int]]) -> int:
        """How many blocks become available when all these tables are given up."""
        given_up = Counter(block_id for table in tables for block_id in table)
        return sum(self._pool.ref_count(block_id) == times for block_id, times in given_up.items())

    def admit(self, state: RequestState) -> int | None:
        """Gives the request blocks for all its known tokens; returns how many tokens were cached.

        None, and nothing done, where `admission_blocks` are not available.
        """
        hashed = state.request.request_id in self._contents
        hits = self.hit_blocks(state)
        if self._cost(state, hits) > self.available_blocks:
            if not hashed:
                self.forget(state.request.request_id)
            return None
        self.ledger.disown(hits)
        for block_id in hits:
            self._pool.hold(block_id)
        fresh = self.blocks_for(state.num_tokens) - len(hits)
        state.block_ids = hits + self._pool.take(fresh)
        self._count_online(state, state.block_ids)
        self._contents.setdefault(state.request.request_id, Content()).num_published = len(hits)
        return len(hits) * self.block_size

    def grow(self, state: RequestState, num_tokens: int) -> bool:
        """Makes the table cover `num_tokens`. False, and nothing done, where blocks are lacking.

        A request with a promise gets blocks inside it; any other what is promised to nobody.
        """
        lacking = self.blocks_for(num_tokens) - len(state.block_ids)
        if lacking < 1:
            return True
        if state in self.ledger:
            if not self.ledger.covers(state, lacking) or self._pool.num_available < lacking:
                return False
            self.ledger.write(state, lacking)
        elif self.available_blocks < lacking:
            return False
        taken = self._pool.take(lacking)
        state.block_ids += taken
        self._count_online(state, taken)
        return True

    def feed(self, states: Iterable[RequestState]) -> list[RequestState]:
        """Gives each the block that its next token needs; returns those for whom there is none."""
        size = self.block_size
        full = [s for s in states if s.num_scheduled_tokens >= len(s.block_ids) * size]
        if len(full) > self._pool.num_available:
            return [state for state in full if not self._feed_one(state)]
        beyond = self.ledger.write_next(full) if len(self.ledger) else []
        if beyond:
            full = [state for state in full if state not in beyond]
        for state, block_id in zip(full, self._pool.take(len(full)), strict=True):
            state.block_ids.append(block_id)
        if self._online is not None:
            self._online.hold(state.block_ids[-1] for state in full if not state.request.is_offline)
        return [state for state in beyond if not self._feed_one(state)]

    def _feed_one(self, state: RequestState) -> bool:
        return self.grow(state, state.num_scheduled_tokens + 1)

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
            hashes = self._content(state).hashes
            self._pool.publish_run(state.block_ids, hashes, content.num_published, whole)
            content.num_published = whole

    def promise(self, state: RequestState, blocks: int, *, guest: bool = False) -> None:
        """The request may write `blocks` more than it holds, or than it was promised before."""
        self.ledger.promise(state, blocks, self._owned(state), guest=guest)

    def own_blocks(self, view: RequestView) -> int:
        """Of the blocks it holds, the ones that nobody shares."""
        return len(view.block_ids) if not self._prefix_caching else len(self._owned(view))

    def _owned(self, view: RequestView) -> Sequence[int]:
        if not self._prefix_caching:
            return view.block_ids
        return self._pool.unshared(view.block_ids)

    def detach(self, state: RequestState) -> list[int]:
        """Takes table and promise away from the request; its blocks stay used until they are given back."""
        self.ledger.release(state)
        if self._online is not None and not state.request.is_offline:
            self._pool.mark_online(state.block_ids)
            self._online.release(state.block_ids)
        block_ids, state.block_ids = state.block_ids, []
        return block_ids

    def give_back(self, block_ids: Sequence[int]) -> None:
        """Releases a detached table."""
        self._pool.release(reversed(block_ids))
        self.ledger.promote(self._pool.num_available)

    def forget(self, request_id: str) -> None:
        """The request is over, or holds nothing: its hashes are not needed any more."""
        self._contents.pop(request_id, None)

    def check(self, states: Iterable[RequestState], detached: Iterable[Sequence[int]] = ()) -> None:
        """Verifies that free + cached + used = all, every reference and every promise.

        Raises InvariantViolated.
        """
        states = list(states)
        self.ledger.check(states)
        held = {block_id for state in states if not state.request.is_offline for block_id in state.block_ids}
        if self._online is not None and len(self._online) != len(held):
            raise InvariantViolated(f"online requests hold {len(held)} blocks, not {len(self._online)}")
        tables = [*(state.block_ids for state in states), *detached]
        self._pool.check(block_id for table in tables for block_id in table)
        for state in states:
            if len(set(state.block_ids)) != len(state.block_ids):
                raise InvariantViolated(f"{state} has a block twice")
            if self.blocks_for(state.num_scheduled_tokens) > len(state.block_ids):
                raise InvariantViolated(f"{state} writes beyond its {len(state.block_ids)} blocks")
            writes_from = self._final_tokens(state) // self.block_size
            if any(self._pool.ref_count(block_id) > 1 for block_id in state.block_ids[writes_from:]):
                raise InvariantViolated(f"{state} writes into a shared block")

    def _final_tokens(self, state: RequestState) -> int:
        """Whose KV nobody writes any more, so that others may share it."""
        return state.num_computed_tokens

    def _cost(self, view: RequestView, hits: Sequence[int]) -> int:
        # where lending counts on a block to come free with its only holder, to share it costs a block
        free_to_share = 1 if self.ledger.lending else 0
        shared = sum(self._pool.ref_count(block_id) > free_to_share for block_id in hits)
        return self.blocks_for(view.num_tokens) - shared

    def _count_online(self, state: RequestState, block_ids: Sequence[int]) -> None:
        if self._online is not None and not state.request.is_offline:
            self._online.hold(block_ids)

    def _content(self, view: RequestView) -> Content:
        """With the hashes of all its whole blocks."""
        content = self._contents.get(view.request.request_id)
        if content is None:
            content = self._contents[view.request.request_id] = Content()
        if (len(content.hashes) + 1) * self.block_size <= view.num_tokens:
            self._hashing.extend(content.hashes, view, self.block_size)
        return content
