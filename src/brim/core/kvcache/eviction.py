"""Which cached block loses its content first: a rule is a collection that knows whose turn it is."""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Protocol

from brim.core.errors import ConfigError, InvariantViolated

_MANY = 256  # sequences told of and not taken in


class Block:
    """One block: who holds it and what it contains.

    `block_hash` is set while its content is whole and can be found by prefix; `online` from when an online
    request let go of that content, whoever held it besides.
    """

    __slots__ = ("block_hash", "block_id", "online", "ref_count")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_count = 0
        self.block_hash: Hashable = None
        self.online = False

    def __repr__(self) -> str:
        content = "empty" if self.block_hash is None else "cached"
        return f"<block {self.block_id} refs={self.ref_count} {content}>"


class Evicting(enum.Enum):
    """The rules there are."""

    LEAST_RECENTLY_USED = enum.auto()
    BY_REUSE = enum.auto()
    BY_REUSE_ONLINE_LAST = enum.auto()


class Eviction(Protocol):
    """The cached blocks that nobody holds."""

    @property
    def by_class(self) -> bool:
        """Whether blocks must be marked as online."""

    def wanted_among_next(self, count: int) -> int:
        """How many of the next `count` to be evicted somebody waits for."""

    def __contains__(self, block: Block) -> bool: ...
    def add(self, block: Block) -> None:
        """Its last holder let go. A table comes from its end."""

    def discard(self, block: Block) -> None:
        """It is held again."""

    def pop(self) -> Block:
        """Takes out the one that is evicted first; only called where there is one."""


class LeastRecentlyUsed:
    """The block released longest ago. A table is released from its end, so leaves die before parents."""

    by_class = False

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def wanted_among_next(self, count: int) -> int:
        """0: it does not know."""
        return 0

    def __contains__(self, block: Block) -> bool:
        return block.block_id in self._blocks

    def add(self, block: Block) -> None:
        self._blocks[block.block_id] = block

    def discard(self, block: Block) -> None:
        del self._blocks[block.block_id]

    def pop(self) -> Block:
        return self._blocks.popitem(last=False)[1]


class Reuse(Protocol):
    """How many offline requests that wait will read a cached block."""

    def reuse(self, block_hash: Hashable) -> int: ...
    def depth(self, block_hash: Hashable) -> int:
        """How many blocks of its chain come before it."""

    def watch(self, watcher: ReuseWatcher) -> None:
        """From now on tells the watcher."""


class ReuseWatcher(Protocol):
    """Who must know when a block becomes wanted, or less wanted; that it is wanted more is not told."""

    def reuse_changed(self, block_hashes: Sequence[Hashable]) -> None:
        """Blocks that follow one another in a chain; the sequence must not change any more.

        Some of them may not be cached, or be held.
        """


class ByReuse:
    """First offline blocks that nobody waits for; then, in this order unless `online_last`:

    finished online    the one released longest ago
    offline, wanted    the one that fewest waiting requests will read, leaves before parents

    Blocks that nobody waits for leave in the order in which their last holder or reader went. Built from
    the published summaries of Echo (arXiv 2504.03651); the order is our own where they are silent.

    That blocks are wanted less is taken in at the next eviction, once for all changes since the last one;
    that a block is wanted more is noticed only when its turn comes.
    """

    by_class = True

    def __init__(self, reuse: Reuse, *, online_last: bool = False) -> None:
        self._reuse = reuse
        self._online_last = online_last
        self._online = LeastRecentlyUsed()
        self._unwanted = LeastRecentlyUsed()
        self._wanted: dict[int, Block] = {}
        self._offline: dict[Hashable, Block] = {}  # wanted or not, by content
        # (reuse, -depth, block id). A lazy heap: each wanted block has at least one entry no larger than its
        # present key.
        self._order: list[tuple[int, int, int]] = []
        self._told: dict[int, Sequence[Hashable]] = {}  # not yet taken in, by identity, the newest last
        reuse.watch(self)

    def wanted_among_next(self, count: int) -> int:
        before = len(self._unwanted) + (0 if self._online_last else len(self._online))
        return min(max(count - before, 0), len(self._wanted))

    def __contains__(self, block: Block) -> bool:
        return block.block_hash in self._offline or block in self._online

    def add(self, block: Block) -> None:
        if block.online:
            self._online.add(block)
        else:
            self._offline[block.block_hash] = block
            self._shelve(block)

    def discard(self, block: Block) -> None:
        if block.online:
            self._online.discard(block)
        else:
            del self._offline[block.block_hash]
            if self._wanted.pop(block.block_id, None) is None:
                self._unwanted.discard(block)

    def pop(self) -> Block:
        if self._told:
            self._take_in_told()
        if len(self._unwanted):
            block = self._unwanted.pop()
        elif len(self._online) and not (self._online_last and self._wanted):
            return self._online.pop()
        else:
            block = self._pop_wanted()
        del self._offline[block.block_hash]
        return block

    def reuse_changed(self, block_hashes: Sequence[Hashable]) -> None:
        if not self._offline:
            return
        self._told.pop(id(block_hashes), None)
        self._told[id(block_hashes)] = block_hashes
        if len(self._told) > _MANY:
            self._take_in_told()

    def _take_in_told(self) -> None:
        for block_hashes in self._told.values():
            for block_hash in reversed(block_hashes):
                block = self._offline.get(block_hash)
                if block is not None:
                    self._reshelve(block)
        self._told.clear()

    def _reshelve(self, block: Block) -> None:
        if self._wanted.pop(block.block_id, None) is not None:
            self._shelve(block)
        elif self._reuse.reuse(block.block_hash):
            self._unwanted.discard(block)
            self._shelve(block)

    def _shelve(self, block: Block) -> None:
        if not self._reuse.reuse(block.block_hash):
            self._unwanted.add(block)
            return
        self._wanted[block.block_id] = block
        heapq.heappush(self._order, self._key(block))
        if len(self._order) > 2 * len(self._wanted) + 64:
            self._order = [self._key(wanted) for wanted in self._wanted.values()]
            heapq.heapify(self._order)

    def _key(self, block: Block) -> tuple[int, int, int]:
        content = block.block_hash
        return self._reuse.reuse(content), -self._reuse.depth(content), block.block_id

    def _pop_wanted(self) -> Block:
        while self._order:
            entry = heapq.heappop(self._order)
            block = self._wanted.get(entry[2])
            if block is None:
                continue
            key = self._key(block)
            if key == entry:
                return self._wanted.pop(block.block_id)
            if key > entry:  # wanted more than it was; a smaller one has an entry of its own
                heapq.heappush(self._order, key)
        raise InvariantViolated("a wanted block is in no order")


def eviction(evicting: Evicting, reuse: Reuse | None) -> Eviction:
    """The rule of that name; `reuse` says who waits for a block. Raises ConfigError where nobody does."""
    if evicting is Evicting.LEAST_RECENTLY_USED:
        return LeastRecentlyUsed()
    if reuse is None:
        raise ConfigError("eviction by reuse needs a policy whose offline requests wait in a pool")
    return ByReuse(reuse, online_last=evicting is Evicting.BY_REUSE_ONLINE_LAST)
