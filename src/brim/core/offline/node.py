"""The parts of the trie: a run of blocks, and a request that waits."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from brim.core.kvcache.prefix_index import BlockHash
from brim.core.request import RequestView

Urgency = tuple[float, ...]


def length_class(num_blocks: int) -> int:
    """A length rounded down to one of eight in every doubling; up to 16 blocks it stays as it is."""
    shift = max(num_blocks.bit_length() - 4, 0)
    return num_blocks >> shift << shift


class Waiter:
    """One waiting request. `node` is where its prefix ends; None when it waits no more."""

    __slots__ = ("length", "node", "urgency", "view")

    def __init__(self, view: RequestView, urgency: Urgency, num_blocks: int) -> None:
        self.view = view
        self.urgency = urgency
        self.length = length_class(num_blocks)
        self.node: Node | None = None

    def __lt__(self, other: Waiter) -> bool:
        return self.urgency < other.urgency

    @property
    def waits(self) -> bool:
        return self.node is not None

    def stands_at(self, node: Node) -> bool:
        """Whether it ends at the node or below, and nothing of its prefix below the node is reached."""
        at = self.node
        while at is not node:
            if at is None or at.reached:
                return False
            at = at.parent
        return True


class Node:
    """A run of blocks, `start` to `end` of a chain, that the same waiting requests will read.

    root --[h0 h1 h2]--> node --[h3 h4]--> child      the node's start is 0 and its end 3
    """

    __slots__ = (
        "cached",
        "children",
        "count",
        "hashes",
        "parent",
        "queues",
        "reached",
        "serial",
        "start",
        "through",
        "warm",
    )

    def __init__(self, parent: Node | None, hashes: Sequence[BlockHash], start: int) -> None:
        self.parent = parent
        self.hashes = hashes
        self.start = start
        self.children: dict[BlockHash, Node] = {}  # by the first hash of each
        self.count = 0  # requests that wait here and below
        self.cached = 0  # of its own blocks, those cached without a gap from the first on
        self.warm: dict[Node, None] = {}  # children whose first block is cached
        self.reached = parent is None  # all blocks before it are cached, and its first one is
        self.through = parent is None  # reached, and all its own blocks are cached
        # By length, the most urgent first: of every child that is not reached its most urgent request, and
        # all that end here. Others may be there that stand here no more.
        self.queues: dict[int, list[Waiter]] = {}
        self.serial = 0  # the pool's

    @property
    def end(self) -> int:
        return self.start + len(self.hashes)

    @property
    def cached_end(self) -> int:
        """The length of the cached prefix, where the node is reached."""
        return self.start + self.cached

    @property
    def above(self) -> Node:
        """The parent of a node that is not the root."""
        assert self.parent is not None
        return self.parent

    @property
    def frontier(self) -> Node:
        """Where the cached prefix of requests that end here ends."""
        node = self
        while not node.reached:
            node = node.above
        return node

    def lineage(self) -> Iterator[Node]:
        """The node and all above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def common(self, hashes: Sequence[BlockHash]) -> int:
        """How many of its hashes a chain that enters it goes through."""
        own, start = self.hashes, self.start
        most = min(len(own), len(hashes) - start)
        if own[most - 1] == hashes[start + most - 1]:
            return most
        return bisect_left(range(most), True, key=lambda i: own[i] != hashes[start + i])

    def enqueue(self, waiter: Waiter) -> None:
        queue = self.queues.setdefault(waiter.length, [])
        heapq.heappush(queue, waiter)
        if len(queue) > 2 * self.count + 16:
            queue[:] = dict.fromkeys(waiter for waiter in queue if waiter.stands_at(self))
            heapq.heapify(queue)

    def first(self, length: int) -> Waiter | None:
        """The most urgent request of this length that stands here; drops those that don't."""
        queue = self.queues.get(length)
        while queue:
            if queue[0].stands_at(self):
                return queue[0]
            heapq.heappop(queue)
        self.queues.pop(length, None)
        return None

    def standing(self, lengths: Callable[[int], bool]) -> Iterator[Waiter]:
        """All of these lengths that stand here, the most urgent first. To be used before the node changes."""
        last: Waiter | None = None
        for waiter in merged([queue for length, queue in self.queues.items() if lengths(length)]):
            if waiter is not last and waiter.stands_at(self):
                yield waiter
            last = waiter

    def firsts(self) -> list[Waiter]:
        """The most urgent of each length."""
        return [first for length in list(self.queues) if (first := self.first(length)) is not None]


def merged(heaps: Sequence[Sequence[Waiter]]) -> Iterator[Waiter]:
    """What is in the heaps in order, without a look at more than is asked for."""
    places = [(heap[0], at, 0) for at, heap in enumerate(heaps) if heap]
    heapq.heapify(places)
    while places:
        waiter, at, place = places[0]
        yield waiter
        heap, below = heaps[at], 2 * place + 1
        if below >= len(heap):
            heapq.heappop(places)
            continue
        heapq.heapreplace(places, (heap[below], at, below))
        if below + 1 < len(heap):
            heapq.heappush(places, (heap[below + 1], at, below + 1))
