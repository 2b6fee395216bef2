"""Reference counts and contents of the blocks. Every block is in exactly one of three states:

free     no content, nobody holds it
cached   content that a prefix may find, nobody holds it: can be evicted
used     held by one request, or by more where it has content

So only for blocks with content the holders are counted: a cache that shares nothing counts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from brim.core.errors import InvariantViolated
from brim.core.kvcache.eviction import Block, Eviction, LeastRecentlyUsed
from brim.core.kvcache.prefix_index import BlockHash, CacheObserver, PrefixIndex


class Index(Protocol):
    def match(self, hashes: Iterable[BlockHash]) -> list[int]:
        """Block ids of the longest run of `hashes`, from the first on, that is here."""


class Blocks(Protocol):
    """What `KVCacheManager` needs of a pool; `BlockPool` says what each member means."""

    @property
    def index(self) -> Index: ...
    @property
    def eviction(self) -> Eviction: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def num_free(self) -> int: ...
    @property
    def num_cached(self) -> int: ...
    @property
    def num_available(self) -> int: ...
    @property
    def num_used(self) -> int: ...

    def ref_count(self, block_id: int) -> int: ...
    def unshared(self, block_ids: Iterable[int]) -> list[int]: ...
    def wanted_among(self, count: int) -> int: ...
    def take(self, count: int = 1) -> list[int]: ...
    def hold(self, block_id: int) -> None: ...
    def release(self, block_ids: Iterable[int]) -> None: ...
    def publish_run(
        self, block_ids: Sequence[int], hashes: Sequence[BlockHash], start: int, stop: int
    ) -> None: ...
    def mark_online(self, block_ids: Iterable[int]) -> None: ...
    def check(self, holders: Iterable[int]) -> None: ...


class BlockPool:
    def __init__(
        self, num_blocks: int, eviction: Eviction | None = None, observer: CacheObserver | None = None
    ) -> None:
        self._blocks = [Block(i) for i in range(num_blocks)]
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: block 0 is taken first
        self.eviction = LeastRecentlyUsed() if eviction is None else eviction  # all cached blocks
        self._num_cached = 0
        self._observer = observer
        self.index = PrefixIndex()

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return self._num_cached

    @property
    def num_available(self) -> int:
        """Blocks that `take` can hand out: free ones, and cached ones at the price of their content."""
        return len(self._free) + self._num_cached

    @property
    def num_used(self) -> int:
        return len(self._blocks) - len(self._free) - self._num_cached

    def ref_count(self, block_id: int) -> int:
        """Holders of a block that is used or cached."""
        block = self._blocks[block_id]
        return 1 if block.block_hash is None else block.ref_count

    def unshared(self, block_ids: Iterable[int]) -> list[int]:
        """Those of them, all used, with one holder."""
        blocks = self._blocks
        return [block_id for block_id in block_ids if blocks[block_id].ref_count < 2]

    def wanted_among(self, count: int) -> int:
        """Of so many blocks, taken now, how many would lose a content that somebody waits for."""
        return self.eviction.wanted_among_next(count - len(self._free))

    def take(self, count: int = 1) -> list[int]:
        """Empty blocks, each held once. Evicts where none is free; raises InvariantViolated for want."""
        free = self._free
        taken = free[: -count - 1 : -1]
        del free[len(free) - len(taken) :]
        while len(taken) < count:
            taken.append(self._evict().block_id)
        return taken

    def hold(self, block_id: int) -> None:
        """One more holder of a block with content."""
        block = self._blocks[block_id]
        if block.ref_count == 0:
            self._num_cached -= 1
            self.eviction.discard(block)
        block.ref_count += 1

    def release(self, block_ids: Iterable[int]) -> None:
        """One holder less of each; give a table's end first, so that leaves are evicted before parents."""
        if not len(self.index):
            self._free.extend(block_ids)
            return
        blocks, freed = self._blocks, self._free.append
        for block_id in block_ids:
            block = blocks[block_id]
            if block.block_hash is None:
                freed(block_id)
                continue
            block.ref_count -= 1
            if not block.ref_count:
                self._num_cached += 1
                self.eviction.add(block)

    def publish(self, block_id: int, block_hash: BlockHash) -> None:
        """The block is whole: prefixes may find it. The first block of a content stays the one found."""
        if block_hash not in self.index:
            block = self._blocks[block_id]
            block.block_hash, block.ref_count = block_hash, 1
            self.index.add(block_hash, block_id)

    def publish_run(
        self, block_ids: Sequence[int], hashes: Sequence[BlockHash], start: int, stop: int
    ) -> None:
        """The same of a table's blocks `start` to `stop`."""
        for i in range(start, stop):
            self.publish(block_ids[i], hashes[i])
        if self._observer is not None:
            self._observer.published(hashes, start, stop)

    def mark_online(self, block_ids: Iterable[int]) -> None:
        """An online request holds them; those with content count as online until they are evicted."""
        if not len(self.index):
            return
        for block_id in block_ids:
            block = self._blocks[block_id]
            block.online = block.block_hash is not None

    def _evict(self) -> Block:
        if not self._num_cached:
            raise InvariantViolated("a block was taken although none is available")
        block = self.eviction.pop()
        self._num_cached -= 1
        self.index.remove(block.block_hash)
        if self._observer is not None:
            self._observer.evicted(block.block_hash)
        block.block_hash = None
        block.online = False
        return block

    def check(self, holders: Iterable[int]) -> None:
        """Verifies the books against `holders`, the block ids of all tables one after another.

        Raises InvariantViolated with the first contradiction found.
        """
        held = Counter(holders)
        for block in self._blocks:
            times = held[block.block_id]
            if block.block_hash is None:
                wrong = times > 1 or block.ref_count > 0
            else:
                wrong = times != block.ref_count
            if wrong:
                raise InvariantViolated(f"{block} has {times} holders")
            if block.block_hash is not None and self.index.get(block.block_hash) != block.block_id:
                raise InvariantViolated(f"{block} is not the one that the index finds")
        self._check_states(held)

    def _check_states(self, held: Counter[int]) -> None:
        free = set(self._free)
        if len(free) != len(self._free):
            raise InvariantViolated("a block is free twice")
        if any(held[i] or self._blocks[i].block_hash is not None for i in free):
            raise InvariantViolated("a free block is held or has content")
        unheld = {b.block_id for b in self._blocks if not held[b.block_id]}
        cached = {b.block_id for b in self._blocks if b.ref_count == 0 and b.block_hash is not None}
        if unheld - cached != free or len(cached) != self._num_cached:
            raise InvariantViolated("free + cached + used is not the whole pool")
        if {b.block_id for b in self._blocks if b in self.eviction} != cached:
            raise InvariantViolated("the blocks that can be evicted are not the cached ones")
        if len(self.index) != sum(b.block_hash is not None for b in self._blocks):
            raise InvariantViolated("the index finds a block without that content")
