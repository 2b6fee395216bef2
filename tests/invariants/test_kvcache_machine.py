"""The KV cache against a simple model of the device: what was really written into which block.

I1 free + cached + used = all    I2, I3 references and free lists (`check`)    I4 no shared block is written
I5 nothing stays used            I6 only whole, computed blocks are found, and with the content asked for
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.manager import KVCacheManager
from brim.core.offline.trie import PrefixTrie
from brim.core.request import RequestState
from tests.helpers import compute, request, state

NUM_BLOCKS = 7


class KVCacheMachine(RuleBasedStateMachine):
    @initialize(block_size=st.sampled_from([1, 2, 4]), prefix_caching=st.booleans())
    def start(self, block_size: int, prefix_caching: bool) -> None:
        self.prefixes = PrefixTrie()
        pool = BlockPool(NUM_BLOCKS, observer=self.prefixes)
        self.kv = KVCacheManager(pool, block_size, prefix_caching=prefix_caching)
        self.running: list[RequestState] = []
        self.waiting: list[RequestState] = []
        self.detached: list[list[int]] = []
        self.written: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to and with its own
        self.num_requests = 0

    def pick(self, states: list[RequestState], at: int) -> RequestState:
        return states[at % len(states)]

    def counts(self) -> tuple[int, int, int]:
        return self.kv.free_blocks, self.kv.cached_blocks, self.kv.used_blocks

    def write(self, of: RequestState, num_tokens: int) -> None:
        """What a device does in a step; then the step is committed."""
        size, start = self.kv.block_size, of.num_computed_tokens
        for at in range(start // size, -(-(start + num_tokens) // size)):
            block_id = of.block_ids[at]
            sharers = [s for s in self.running if block_id in s.block_ids]
            assert sharers == [of], "a shared block is written"
            assert not any(block_id in table for table in self.detached), "a block in flight is written"
            self.written[block_id] = tuple(of.token_ids[: min((at + 1) * size, start + num_tokens)])
        of.schedule(num_tokens)
        compute(of, num_tokens)

    # ---- what may happen

    @rule(common=st.integers(0, 12), own=st.integers(1, 8), salt=st.sampled_from(["", "", "s"]))
    def arrive(self, common: int, own: int, salt: str) -> None:
        self.num_requests += 1
        name = f"{self.num_requests}"
        tokens = [*range(common), *([100 + self.num_requests % 2] * own)]
        self.waiting.append(state(request(name, tokens, max_tokens=99, cache_salt=salt)))

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 99))
    def admit(self, at: int) -> None:
        entering = self.pick(self.waiting, at)
        need, available, before = (
            self.kv.admission_blocks(entering),
            self.kv.available_blocks,
            self.counts(),
        )
        hits = self.kv.hit_blocks(entering)
        cached_tokens = self.kv.admit(entering)
        assert (cached_tokens is None) == (need > available)
        if cached_tokens is None:
            assert self.counts() == before
            assert entering.block_ids == []
            return
        assert self.kv.available_blocks == available - need
        assert entering.block_ids[: len(hits)] == hits
        assert cached_tokens == len(hits) * self.kv.block_size < entering.num_tokens
        entering.admit(cached_tokens)
        self.waiting.remove(entering)
        self.running.append(entering)

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 99), told=st.booleans())
    def look(self, at: int, told: bool) -> None:
        """Now and then: what was found by an earlier look may be gone, or more."""
        asking = self.pick(self.waiting, at)
        assert self.kv.num_hits(asking, self.prefixes if told else None) == len(self.kv.hit_blocks(asking))

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), share=st.floats(0.1, 1))
    def compute(self, at: int, share: float) -> None:
        running = self.pick(self.running, at)
        missing = running.num_tokens - running.num_computed_tokens
        if missing:
            self.write(running, max(1, int(share * missing)))
            self.kv.publish_computed(running)

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), token_id=st.integers(100, 101))
    def decode(self, at: int, token_id: int) -> None:
        running = self.pick(self.running, at)
        missing = running.num_tokens - running.num_computed_tokens
        if missing > 1:
            return  # only the step of the newest token draws the next
        if missing:
            self.write(running, 1)
        lacking = self.kv.blocks_for(running.num_tokens + 1) - len(running.block_ids)
        available, before = self.kv.available_blocks, self.counts()
        grown = self.kv.grow(running, running.num_tokens + 1)
        assert grown == (lacking <= available)
        if grown:
            running.append(token_id)
        else:
            assert self.counts() == before

    @precondition(lambda self: self.running)
    @rule(at=st.integers(0, 99), publish=st.booleans(), in_flight=st.booleans(), again=st.booleans())
    def leave(self, at: int, publish: bool, in_flight: bool, again: bool) -> None:
        leaving = self.pick(self.running, at)
        if publish:
            self.kv.publish_computed(leaving)
        self.running.remove(leaving)
        freeable, available = self.kv.freeable_blocks([leaving.block_ids]), self.kv.available_blocks
        table = self.kv.detach(leaving)
        assert self.kv.available_blocks == available
        if in_flight:
            self.detached.append(table)
        else:
            self.kv.give_back(table)
            assert self.kv.available_blocks == available + freeable
        if again:
            leaving.preempt()
            self.waiting.append(leaving)
        else:
            self.kv.forget(leaving.request.request_id)

    @precondition(lambda self: self.detached)
    @rule()
    def land(self) -> None:
        self.kv.give_back(self.detached.pop(0))

    # ---- what must hold

    @invariant()
    def the_books_balance(self) -> None:
        self.kv.check(self.running, self.detached)
        assert sum(self.counts()) == NUM_BLOCKS
        held = {block_id for s in self.running for block_id in s.block_ids}
        held |= {block_id for table in self.detached for block_id in table}
        assert self.kv.used_blocks == len(held)

    @invariant()
    def what_is_found_was_written(self) -> None:
        size = self.kv.block_size
        for asking in self.waiting:
            salted = bool(asking.request.cache_salt)
            for at, block_id in enumerate(self.kv.hit_blocks(asking)):
                assert self.written[block_id] == tuple(asking.token_ids[: (at + 1) * size])
                assert self.salts.setdefault(block_id, salted) == salted

    @property
    def salts(self) -> dict[int, bool]:
        """Salted or not, by block, of those that running requests hold."""
        return {b: bool(s.request.cache_salt) for s in self.running for b in s.block_ids}

    def teardown(self) -> None:
        if not hasattr(self, "kv"):
            return
        for table in [*(self.kv.detach(s) for s in self.running), *self.detached]:
            self.kv.give_back(table)
        self.kv.check([])
        assert self.kv.used_blocks == 0


class TestFewRuns(KVCacheMachine.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.slow
class TestManyRuns(KVCacheMachine.TestCase):
    settings = settings(max_examples=600, stateful_step_count=50, deadline=None)
