"""The KV cache of a host that owns its blocks: our books over its pool.

The host takes and frees blocks while it carries a step out, we decide before. A block that a request is
sure to get has no address until then: it stands in the table as a number below 0, and counts as used.

    decided   [ 17 ][ 4 ][ -1 ][ -2 ]      17 and 4 are hits, two blocks are reserved
    stepped   [ 17 ][ 4 ][ 30 ][ -2 ]      the host took one: the chunk needed no more
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from brim.core.errors import InvariantViolated
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.ledger import Ledger
from brim.core.kvcache.manager import Content, KVCacheManager
from brim.core.kvcache.prefix_index import BlockHash, longest_run
from brim.core.request import RequestState, RequestView


class Beside(NamedTuple):
    """Blocks that a request takes beside its table, for layers that keep only the newest tokens."""

    num_tables: int
    block_size: int
    most_blocks: int  # in each of these tables

    def blocks_for(self, num_tokens: int) -> int:
        return self.num_tables * min(-(-num_tokens // self.block_size), self.most_blocks)


class Host(Protocol):
    """Who owns the blocks, and who knows what was computed. Requests go by their ids."""

    @property
    def beside(self) -> Sequence[Beside]:
        """What a newcomer takes until it generates."""

    @property
    def num_blocks(self) -> int:
        """All that tables can hold."""

    @property
    def free_blocks(self) -> int:
        """Held by nobody, whatever they contain; less what those who run need beside their tables."""

    def wanted_among(self, count: int) -> int:
        """Of so many blocks, taken now, how many would lose a content that somebody waits for."""

    def table(self, request_id: str, start: int) -> Sequence[int]:
        """The block ids that a request holds, from the `start`-th on; none where it holds none."""

    def ref_count(self, block_id: int) -> int: ...
    def find(self, block_hash: BlockHash) -> int | None:
        """A block with that content."""

    def hashes(self, request_id: str, start: int) -> Sequence[BlockHash]:
        """The names of a request's whole blocks, from the `start`-th on."""

    def token_ids(self, request_id: str) -> list[int]:
        """All known tokens; the host's own list, which grows."""

    def num_computed_tokens(self, request_id: str) -> int:
        """Those in flight included."""

    def preempt(self, request_id: str) -> None:
        """Takes back all that the request holds, if it holds anything; it waits again."""

    def keep(self, block_id: int) -> None:
        """One holder more of a block with content."""

    def let_go(self, block_ids: Sequence[int]) -> None:
        """One holder less of each."""

    def mark_online(self, block_ids: Iterable[int]) -> None:
        """An online request holds them."""


class _HostIndex:
    """`PrefixIndex` over the host's."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def match(self, hashes: Iterable[BlockHash]) -> list[int]:
        return longest_run(self._host.find, hashes)


class HostedBlocks:
    """`BlockPool` over the host's: what is taken here is reserved until the host takes it."""

    def __init__(self, host: Host, eviction: Eviction) -> None:
        self._host = host
        self.index = _HostIndex(host)
        self.eviction = eviction  # the host's to follow
        self.num_reserved = 0
        self.beside_newcomers = 0  # beside their tables, until the host has let them in
        self._next_id = -1
        self._hits: list[int] = []  # kept for newcomers that the host has still to let in

    @property
    def num_blocks(self) -> int:
        return self._host.num_blocks

    @property
    def num_free(self) -> int:
        """All that nobody holds: the host does not tell which of them have content."""
        return self.num_available

    @property
    def num_cached(self) -> int:
        return 0

    @property
    def num_available(self) -> int:
        return max(self._host.free_blocks - self.num_reserved - self.beside_newcomers, 0)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def ref_count(self, block_id: int) -> int:
        return 1 if block_id < 0 else self._host.ref_count(block_id)

    def unshared(self, block_ids: Iterable[int]) -> list[int]:
        return [block_id for block_id in block_ids if self.ref_count(block_id) < 2]

    def wanted_among(self, count: int) -> int:
        return self._host.wanted_among(count)

    def take(self, count: int = 1) -> list[int]:
        self.num_reserved += count
        ids = range(self._next_id, self._next_id - count, -1)
        self._next_id -= count
        return list(ids)

    def hold(self, block_id: int) -> None:
        """Until the newcomer has it: else the host might evict it for those who run before."""
        self._host.keep(block_id)
        self._hits.append(block_id)

    def release(self, block_ids: Iterable[int]) -> None:
        """The host itself frees its own."""
        self.num_reserved -= len([block_id for block_id in block_ids if block_id < 0])

    def publish_run(
        self, block_ids: Sequence[int], hashes: Sequence[BlockHash], start: int, stop: int
    ) -> None:
        """The host has done it, and tells an observer itself."""

    def mark_online(self, block_ids: Iterable[int]) -> None:
        """Done when the host gave them."""

    def entered(self) -> None:
        """The host has given the hits to those that it let in, or never will."""
        self.beside_newcomers = 0
        if self._hits:
            hits, self._hits = self._hits, []
            self._host.let_go(hits)

    def check(self, holders: Iterable[int]) -> None:
        """Verifies the books against the host's, between steps. Raises InvariantViolated."""
        held = Counter(holders)
        if self.num_reserved != sum(block_id < 0 for block_id in held):
            raise InvariantViolated(f"{self.num_reserved} blocks are reserved, not those in the tables")
        for block_id, times in held.items():
            if block_id >= 0 and self._host.ref_count(block_id) < times:
                raise InvariantViolated(f"the host counts fewer than {times} holders of block {block_id}")


class _HostHashing:
    """The host's own names, so that its prefixes are ours."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def extend(self, hashes: list[BlockHash], view: RequestView, block_size: int) -> None:
        hashes.extend(self._host.hashes(view.request.request_id, len(hashes)))


class HostedCache(KVCacheManager):
    """Tables as they will be, filled with the host's block ids as soon as there are any."""

    waits_for_steps = False

    def __init__(
        self, host: Host, block_size: int, prefix_caching: bool, eviction: Eviction, ledger: Ledger
    ) -> None:
        self._blocks = HostedBlocks(host, eviction)
        super().__init__(self._blocks, block_size, prefix_caching, _HostHashing(host), ledger)
        self._host = host
        self._open: dict[RequestState, int] = {}  # with reserved blocks: entries up to here are the host's

    def admit(self, state: RequestState) -> int | None:
        cached_tokens = super().admit(state)
        if cached_tokens is not None:
            self._open[state] = 0
            self._blocks.beside_newcomers += self._beside(state)
        return cached_tokens

    def grow(self, state: RequestState, num_tokens: int) -> bool:
        self._open.setdefault(state, len(state.block_ids))
        return super().grow(state, num_tokens)

    def feed(self, states: Iterable[RequestState]) -> list[RequestState]:
        states = list(states)
        for state in states:
            self._open.setdefault(state, len(state.block_ids))
        return super().feed(states)

    def take_over(self, state: RequestState) -> None:
        """The host let the request enter, or had before we came."""
        state.block_ids = self._pool.take(self.blocks_for(state.num_tokens))
        self._count_online(state, state.block_ids)
        self._contents.setdefault(state.request.request_id, Content())
        self._fill(state, 0)

    def stepped(self) -> None:
        """The host has carried a step out: its block ids take the places of reserved ones."""
        self._blocks.entered()
        for state, start in list(self._open.items()):
            self._fill(state, start)
            if start == 0 and state in self._open:
                self._miss(state)

    def _miss(self, state: RequestState) -> None:
        """The host found fewer hits than we did: blocks are reserved in place of those that it lacks."""
        start = self._open[state]
        missed = sum(block_id >= 0 for block_id in state.block_ids[start:])
        if missed:
            self._replace(state, start, self._pool.take(missed))

    def close(self) -> None:
        """Gives back what is kept for newcomers: nobody will let them in by our orders."""
        self._blocks.entered()

    def publish_computed(self, state: RequestState) -> None:
        """The host has done it."""

    def catch_up(self, state: RequestState, num_tokens: int) -> None:
        """Makes the table cover `num_tokens`. Where the host gave blocks beyond it, the promise is void."""
        lacking = self.blocks_for(num_tokens) - len(state.block_ids)
        if lacking > 0:
            self.ledger.release(state)
            start = self._open.setdefault(state, len(state.block_ids))
            fresh = self._pool.take(lacking)
            state.block_ids += fresh
            self._count_online(state, fresh)
            self._fill(state, start)

    def detach(self, state: RequestState) -> list[int]:
        block_ids = super().detach(state)
        self._open.pop(state, None)
        self._host.preempt(state.request.request_id)
        self._pool.release(block_ids)
        return []

    def _final_tokens(self, state: RequestState) -> int:
        """A host may let others find what a step in flight computes: theirs runs after it."""
        return state.num_scheduled_tokens

    def _cost(self, view: RequestView, hits: Sequence[int]) -> int:
        return super()._cost(view, hits) + self._beside(view)

    def _beside(self, view: RequestView) -> int:
        return sum([each.blocks_for(view.num_tokens) for each in self._host.beside])

    def _fill(self, state: RequestState, start: int) -> None:
        fresh = self._host.table(state.request.request_id, start)[: len(state.block_ids) - start]
        self._replace(state, start, fresh)
        if self._online is not None and not state.request.is_offline:
            self._host.mark_online(fresh)
        if start + len(fresh) >= len(state.block_ids):
            self._open.pop(state, None)
        else:
            self._open[state] = start + len(fresh)

    def _replace(self, state: RequestState, start: int, ids: Sequence[int]) -> None:
        stood = state.block_ids[start : start + len(ids)]
        state.block_ids[start : start + len(ids)] = ids
        self._pool.release(stood)
        if self._online is not None and not state.request.is_offline:
            self._online.hold(ids)
            self._online.release(stood)
