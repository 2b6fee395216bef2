"""The pool of offline requests and eviction by reuse, told by a real and small KV cache.

After every event: what waiting requests will read, whom to look at, and how much of a prefix is cached are
as a recount over all that wait finds them; every evicted block was the first in the stated order.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.eviction import Block, ByReuse, Eviction, LeastRecentlyUsed, Reuse
from brim.core.kvcache.manager import KVCacheManager
from brim.core.kvcache.prefix_index import BlockHash
from brim.core.offline.node import length_class
from brim.core.offline.pool import OfflinePool, bucket, urgency
from brim.core.request import RequestState, TaskClass
from tests.helpers import OFFLINE, ONLINE, compute, request, state

NUM_BLOCKS = 12


class Recounting(ByReuse):
    """Holds every eviction against a look at all blocks that could be evicted."""

    def __init__(self, machine: PoolMachine, reuse: Reuse, *, online_last: bool) -> None:
        super().__init__(reuse, online_last=online_last)
        self.machine = machine
        self.online_last = online_last
        self.released: dict[int, int] = {}  # by block
        self.releases = 0

    def add(self, block: Block) -> None:
        super().add(block)
        self.releases += 1
        self.released[block.block_id] = self.releases

    def key(self, block: Block) -> tuple[int, ...]:
        """Smaller goes first; the order among the unwanted is not looked at."""
        if block.online:
            return (3 if self.online_last else 1, self.released[block.block_id])
        reuse = self.machine.reuse(block.block_hash)
        return (2, reuse, -self.machine.depths[block.block_hash]) if reuse else (0,)

    def pop(self) -> Block:
        evictable = [block for block in self.machine.kv._pool._blocks if block in self]
        assert not any(block.ref_count for block in evictable)
        first = min(map(self.key, evictable))
        victim = super().pop()
        assert self.key(victim) == first
        return victim


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        block_size=st.sampled_from([1, 2]),
        rule=st.sampled_from(["least recently used", "online first", "online last"]),
    )
    def start(self, block_size: int, rule: str) -> None:
        self.pool = OfflinePool()
        eviction: Eviction = LeastRecentlyUsed()
        if rule != "least recently used":
            eviction = Recounting(self, self.pool.prefixes, online_last=rule == "online last")
        self.kv = KVCacheManager(BlockPool(NUM_BLOCKS, eviction, self.pool.prefixes), block_size)
        self.waiting: list[RequestState] = []
        self.running: list[RequestState] = []
        self.detached: list[list[int]] = []
        self.depths: dict[BlockHash, int] = {}
        self.were_online: set[BlockHash] = set()
        self.arrivals = 0

    # ---- by brute force

    def wanted(self, view: RequestState) -> list[BlockHash]:
        return list(self.kv.usable_hashes(view))

    @property
    def pooled(self) -> list[RequestState]:
        return [view for view in self.waiting if view.request.task_class is OFFLINE]

    def reuse(self, block_hash: BlockHash) -> int:
        return sum(block_hash in self.wanted(view) for view in self.pooled if view in self.pool)

    def candidates(self) -> list[RequestState]:
        best: dict[int, RequestState] = {}
        cached = {view: len(self.kv.hit_blocks(view)) for view in self.pooled}
        for view in sorted(self.pooled, key=lambda view: (-cached[view], urgency(view))):
            length = length_class(self.kv.blocks_for(view.num_tokens))
            best.setdefault(bucket(max(length - cached[view], 1)), view)
        first = min(self.pooled, key=urgency, default=None)
        found = [] if first is None else [first]
        return [*found, *(best[number] for number in sorted(best) if best[number] is not first)]

    # ---- what may happen

    @rule(
        document=st.integers(0, 2),
        shared=st.integers(0, 20),
        own=st.integers(1, 3),
        whom=st.integers(0, 1),
        task_class=st.sampled_from([OFFLINE, OFFLINE, ONLINE]),
        priority=st.integers(0, 1),
    )
    def arrive(
        self, document: int, shared: int, own: int, whom: int, task_class: TaskClass, priority: int
    ) -> None:
        self.arrivals += 1
        tokens = [*range(100 * document, 100 * document + shared), *[500 + whom] * own]
        asked = request(f"{self.arrivals}", tokens, max_tokens=99, task_class=task_class, priority=priority)
        self.wait(state(asked, self.arrivals))

    def wait(self, view: RequestState) -> None:
        for depth, block_hash in enumerate(self.wanted(view)):
            self.depths[block_hash] = depth
        self.waiting.append(view)
        if view.request.task_class is OFFLINE:
            self.pool.add(view, self.kv.usable_hashes(view))
            self.kv.forget(view.request.request_id)

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 99), pool_first=st.booleans())
    def admit(self, at: int, pool_first: bool) -> None:
        entering = self.waiting[at % len(self.waiting)]
        if self.kv.admission_blocks(entering) > self.kv.available_blocks:
            return
        pooled = entering in self.pool
        if pooled and pool_first:
            self.pool.remove(entering)
        entering.admit(self.kv.admit(entering) or 0)
        if pooled and not pool_first:
            self.pool.remove(entering)
        self.waiting.remove(entering)
        self.running.append(entering)

    @precondition(lambda self: self.pool)
    @rule()
    def admit_the_best(self) -> None:
        self.admit(self.waiting.index(self.candidates()[-1]), True)

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), share=st.floats(0.1, 1))
    def compute(self, at: int, share: float) -> None:
        running = self.running[at % len(self.running)]
        missing = running.num_tokens - running.num_computed_tokens
        if missing:
            running.schedule(max(1, int(share * missing)))
            compute(running, max(1, int(share * missing)))
            self.publish(running)

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), token_id=st.integers(500, 501))
    def decode(self, at: int, token_id: int) -> None:
        running = self.running[at % len(self.running)]
        missing = running.num_tokens - running.num_computed_tokens
        if missing > 1 or not self.kv.grow(running, running.num_tokens + 1):
            return
        running.schedule(missing)
        compute(running, missing)
        running.append(token_id)

    def publish(self, running: RequestState) -> None:
        self.kv.publish_computed(running)
        for depth, block_hash in enumerate(self.kv._contents[running.request.request_id].hashes):
            self.depths[block_hash] = depth

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), in_flight=st.booleans(), again=st.booleans())
    def leave(self, at: int, in_flight: bool, again: bool) -> None:
        leaving = self.running.pop(at % len(self.running))
        self.publish(leaving)
        if leaving.request.task_class is ONLINE:
            self.were_online |= {self.kv._pool._blocks[b].block_hash for b in leaving.block_ids}
        table = self.kv.detach(leaving)
        if in_flight:
            self.detached.append(table)
        else:
            self.kv.give_back(table)
        if again:
            leaving.preempt()
            self.wait(leaving)
        else:
            self.kv.forget(leaving.request.request_id)

    @precondition(lambda self: self.detached)
    @rule()
    def land(self) -> None:
        self.kv.give_back(self.detached.pop(0))

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 99))
    def abort(self, at: int) -> None:
        gone = self.waiting.pop(at % len(self.waiting))
        if gone in self.pool:
            self.pool.remove(gone)
        self.kv.forget(gone.request.request_id)

    # ---- what must hold

    @invariant()
    def the_books_balance(self) -> None:
        self.kv.check(self.running, self.detached)
        self.pool.check()
        assert list(self.pool) == sorted(self.pooled, key=urgency)

    @invariant()
    def what_is_known_of_the_cache_is_true(self) -> None:
        for block in self.kv._pool._blocks:
            if block.block_hash is not None:
                assert self.pool.prefixes.reuse(block.block_hash) == self.reuse(block.block_hash)
                assert self.pool.prefixes.depth(block.block_hash) == self.depths[block.block_hash]
        for view in self.pooled:
            assert self.pool.cached_blocks(view) == len(self.kv.hit_blocks(view))

    @invariant()
    def the_right_ones_are_looked_at(self) -> None:
        assert self.pool.candidates() == self.candidates()

    @invariant()
    def who_held_a_block_is_remembered(self) -> None:
        found = {block.block_hash for block in self.kv._pool._blocks} - {None}
        self.were_online &= found
        online = {block.block_hash for block in self.kv._pool._blocks if block.online}
        assert online == (self.were_online if self.kv._online is not None else set())

    def teardown(self) -> None:
        if not hasattr(self, "kv"):
            return
        for table in [*(self.kv.detach(s) for s in self.running), *self.detached]:
            self.kv.give_back(table)
        for view in self.pooled:
            self.pool.remove(view)
        self.kv.check([])
        assert len(self.pool) == 0
        self.kv._pool.take(NUM_BLOCKS)  # evicts all
        assert self.pool.prefixes._depths == {}


class TestFewRuns(PoolMachine.TestCase):
    settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.slow
class TestManyRuns(PoolMachine.TestCase):
    settings = settings(max_examples=600, stateful_step_count=60, deadline=None)
