"""A radix trie over the chains of block hashes that waiting requests will read.

One node holds a run of hashes; nodes lie where requests end or part, and nowhere else. It knows which of
the blocks are cached, and with that where each request's cached prefix ends:

                        +--[c d]-- 2 requests        cached: a b c x
    root --[a b]--------+
                        +--[e f]-- 1 request         the first two stand at [c d], the third at [a b],
    root --[g h i]---- 3 requests                    the last three at the root

Requests that stand together are not touched when blocks come or go: a node knows the most urgent of each
unreached child only, and a child hands its own up when it ceases to be reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from brim.core.errors import InvariantViolated
from brim.core.kvcache.eviction import ReuseWatcher
from brim.core.kvcache.prefix_index import BlockHash, Evictions
from brim.core.offline.node import Node, Waiter


class PrefixTrie:
    """Hashes are chained: two equal ones mean that all before them are equal.

    As a `CacheObserver` it is told which blocks are cached, as a `Reuse` it tells which of them are wanted.
    """

    def __init__(self) -> None:
        self.root = Node(None, (), 0)
        self.changed: dict[Node, None] = {}  # where the most urgent of some length may be another one
        self.evictions = Evictions()
        self._watcher: ReuseWatcher | None = None
        self._depths: dict[BlockHash, int] = {}  # of all cached blocks
        self._nodes: dict[BlockHash, Node] = {}  # of the cached blocks that somebody waits for

    @property
    def known(self) -> Collection[BlockHash]:
        """All cached blocks, at any time."""
        return self._depths.keys()

    def reuse(self, block_hash: BlockHash) -> int:
        """Waiting requests that will read a cached block."""
        node = self._nodes.get(block_hash)
        return 0 if node is None else node.count

    def depth(self, block_hash: BlockHash) -> int:
        """Blocks before a cached one in its chain. Raises KeyError where it is not cached."""
        return self._depths[block_hash]

    def watch(self, watcher: ReuseWatcher) -> None:
        """From now on the watcher is told of changed reuse, nobody else."""
        self._watcher = watcher

    # ---- requests --------------------------------------------------------------------------------------

    def insert(self, waiter: Waiter, hashes: Sequence[BlockHash]) -> None:
        node, depth = self._deepest(hashes)
        if depth < node.end:
            node = self._split(node, depth)
        known = node
        if depth < len(hashes):
            node = Node(known, tuple(hashes[depth:]), depth)
            known.children[node.hashes[0]] = node
        waiter.node = node
        for at in node.lineage():
            at.count += 1
        if node is not known:
            self._map_cached(node)
        self._enqueue(waiter)

    def remove(self, waiter: Waiter) -> None:
        node = waiter.node
        assert node is not None
        led = []
        at = node
        while not at.reached and at.first(waiter.length) is waiter:
            led.append(at)
            at = at.above
        waiter.node = None
        for below in led:
            self._hand_up(below, waiter.length)
        self.changed[node.frontier] = None
        for at in node.lineage():
            at.count -= 1
            if self._watcher is not None and at.count:
                self._watcher.reuse_changed(at.hashes)
        self._prune(node)

    def cached_prefix(self, waiter: Waiter) -> int:
        """Blocks of a waiting request's prefix that are cached, without a gap from the first on."""
        assert waiter.node is not None
        return waiter.node.frontier.cached_end

    def cached_hashes(self, waiter: Waiter) -> list[BlockHash]:
        """The same, by name."""
        assert waiter.node is not None
        frontier = waiter.node.frontier
        runs = reversed([node.hashes for node in frontier.lineage()])
        return [block_hash for hashes in runs for block_hash in hashes][: frontier.cached_end]

    # ---- cached blocks ---------------------------------------------------------------------------------

    def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
        """Of a chain from its first block on, the blocks `start` to `stop` are cached, if not before."""
        for depth in range(start, stop):
            self._depths[hashes[depth]] = depth
        node = self.root
        while node.end < stop and (child := node.children.get(hashes[node.end])):
            together = child.start + child.common(hashes)
            for depth in range(max(start, child.start), min(stop, together)):
                self._nodes[hashes[depth]] = child
            self._extend(child)
            if together < child.end:
                return
            node = child

    def evicted(self, block_hash: BlockHash) -> None:
        """Raises KeyError where the block is not cached."""
        depth = self._depths.pop(block_hash)
        self.evictions.add(depth, block_hash)
        node = self._nodes.pop(block_hash, None)
        if node is not None and depth < node.cached_end:
            node.cached = depth - node.start
            self._settle(node)

    def _extend(self, node: Node) -> None:
        before = node.cached
        node.cached = self._run(node, before)
        if node.cached != before:
            self._settle(node)

    def _run(self, node: Node, cached: int) -> int:
        """How many of its blocks are cached without a gap, if the first `cached` are."""
        hashes, depths = node.hashes, self._depths
        while cached < len(hashes) and hashes[cached] in depths:
            cached += 1
        return cached

    def _settle(self, node: Node) -> None:
        """The cached part of the node has another length: what is reached from here on down is another."""
        _warm(node)
        todo, fell = [node], []
        for at in todo:
            parent = at.above
            reached = at.cached > 0 and parent.through
            if reached != at.reached:
                self.changed[parent] = None
                if at.reached:
                    fell.append(at)
            at.reached = reached
            through = reached and at.cached == len(at.hashes)
            if through != at.through:
                at.through = through
                todo += at.warm
            self.changed[at] = None
        for at in reversed(fell):
            for first in at.firsts():
                at.above.enqueue(first)

    # ---- the shape -------------------------------------------------------------------------------------

    def _deepest(self, hashes: Sequence[BlockHash]) -> tuple[Node, int]:
        """The last node that the chain enters, and how far they agree."""
        node = self.root
        while node.end < len(hashes) and (child := node.children.get(hashes[node.end])):
            node, common = child, child.common(hashes)
            if common < len(node.hashes):
                return node, node.start + common
        return node, node.end

    def _split(self, node: Node, depth: int) -> Node:
        """Cuts the node in two; returns the new upper one, which ends at `depth`."""
        parent, at = node.above, depth - node.start
        upper = Node(parent, node.hashes[:at], node.start)
        upper.count, upper.cached, upper.reached = node.count, min(node.cached, at), node.reached
        upper.through = node.reached and upper.cached == at
        parent.children[upper.hashes[0]] = upper
        if parent.warm.pop(node, 0) is None:
            parent.warm[upper] = None
        self._move_cached(upper)
        node.parent, node.hashes, node.start = upper, node.hashes[at:], depth
        node.cached = self._run(node, max(node.cached - at, 0))
        node.reached = upper.through and node.cached > 0
        upper.children[node.hashes[0]] = node
        _warm(node)
        if not node.reached:
            for first in node.firsts():
                upper.enqueue(first)
        self.changed |= {upper: None, node: None}
        return upper

    def _merge(self, upper: Node, child: Node) -> None:
        """The only child, through which all requests go, takes the node's blocks over."""
        parent = upper.above
        child.cached = upper.cached + (child.cached if upper.cached == len(upper.hashes) else 0)
        child.reached = upper.reached
        child.parent, child.hashes, child.start = parent, (*upper.hashes, *child.hashes), upper.start
        parent.children[child.hashes[0]] = child
        if parent.warm.pop(upper, 0) is None:
            parent.warm[child] = None
        for block_hash in upper.hashes:
            if block_hash in self._nodes:
                self._nodes[block_hash] = child
        self._retire(upper)
        self.changed[child] = None

    def _prune(self, node: Node) -> None:
        """A request that ended at the node is gone, and with it what only it needed."""
        if not node.count and node is not self.root:
            parent = node.above
            del parent.children[node.hashes[0]]
            parent.warm.pop(node, None)
            for block_hash in node.hashes:
                self._nodes.pop(block_hash, None)
            if self._watcher is not None:
                self._watcher.reuse_changed(node.hashes)
            self._retire(node)
            node = parent
        if node is not self.root and len(node.children) == 1:
            (child,) = node.children.values()
            if child.count == node.count:
                self._merge(node, child)

    def _retire(self, node: Node) -> None:
        node.serial = 0
        self.changed.pop(node, None)

    def _map_cached(self, leaf: Node) -> None:
        """A new leaf: some of its blocks may be cached already."""
        self._move_cached(leaf)
        self._extend(leaf)
        if self._watcher is not None:
            self._watcher.reuse_changed(leaf.hashes)

    def _move_cached(self, node: Node) -> None:
        """Its cached blocks are found at this node from now on."""
        for block_hash in node.hashes:
            if block_hash in self._depths:
                self._nodes[block_hash] = node

    def _enqueue(self, waiter: Waiter) -> None:
        node = waiter.node
        assert node is not None
        node.enqueue(waiter)
        while not node.reached and node.first(waiter.length) is waiter:
            node = node.above
            node.enqueue(waiter)
        self.changed[node.frontier] = None

    def _hand_up(self, node: Node, length: int) -> None:
        first = node.first(length)
        if first is not None:
            node.above.enqueue(first)

    # ---- for tests -------------------------------------------------------------------------------------

    def check(self, waiters: Iterable[Waiter]) -> None:
        """Verifies shape, counts and what is reached. Raises InvariantViolated. Linear."""
        ends = Counter(waiter.node for waiter in waiters)
        nodes, num_mapped = [self.root], 0
        for node in nodes:
            nodes += node.children.values()
            num_mapped += sum(block_hash in self._depths for block_hash in node.hashes)
            if node.count != ends[node] + sum(child.count for child in node.children.values()):
                raise InvariantViolated(f"a node of {node.count} requests has another number of them")
            if node is not self.root:
                self._check_node(node, ends[node])
        if num_mapped != len(self._nodes):
            raise InvariantViolated("a block is waited for that is not cached, or by nobody")

    def _check_node(self, node: Node, here: int) -> None:
        parent = node.above
        if not node.hashes or node.start != parent.end or (not here and len(node.children) < 2):
            raise InvariantViolated("a node is empty, out of place or without a reason")
        if node.cached != self._run(node, 0) or (node in parent.warm) != (node.cached > 0):
            raise InvariantViolated("a node is wrong about its cached blocks")
        reached = parent.through and node.cached > 0
        if (node.reached, node.through) != (reached, reached and node.cached == len(node.hashes)):
            raise InvariantViolated("a node is wrong about what is reached")
        if any(self._nodes.get(h) is not node for h in node.hashes if h in self._depths):
            raise InvariantViolated("a cached block that is waited for is not found")


def _warm(node: Node) -> None:
    parent = node.above
    if node.cached:
        parent.warm[node] = None
    else:
        parent.warm.pop(node, None)
