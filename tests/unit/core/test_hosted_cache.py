"""Our books over the blocks of a host, which evicts by itself."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from brim.core.estimators.step_time import StepTime
from brim.core.kvcache.prefix_index import BlockHash
from brim.core.offline.trie import PrefixTrie
from brim.core.policies.named import named
from brim.core.request import SLO
from tests.helpers import MS, OFFLINE, ONLINE, config, request
from tests.hosted import FakeHost

STEP_TIME = StepTime(8 * 10**9, 3 * 10**7, (), 5000, 2 * 10**7, 10**5)


class CountingHost(FakeHost):
    finds = 0

    def find(self, block_hash: BlockHash) -> int | None:
        self.finds += 1
        return super().find(block_hash)


def test_what_nobody_holds_counts_as_free() -> None:
    host = FakeHost(config(num_blocks=7))
    host.add(request("a", 9, 1), request("b", 4, 9))
    for _ in range(4):
        host.step()
    kv = host.scheduler.kv
    assert (kv.num_blocks, kv.free_blocks, kv.cached_blocks, kv.used_blocks) == (7, 5, 0, 2)


class Newcomer:
    """An observer that is told late: as in vLLM, of the end of what it knows only."""

    def __init__(self, prefixes: PrefixTrie) -> None:
        self._prefixes = prefixes

    def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
        self._prefixes.published(hashes, start, stop)

    def evicted(self, block_hash: BlockHash) -> None:
        if block_hash in self._prefixes.known:
            self._prefixes.evicted(block_hash)


@pytest.mark.parametrize("policy", ["brim", "priority"])
@pytest.mark.parametrize("told_after", [0, 15])
@settings(max_examples=15, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_hits_are_what_a_walk_finds(policy: str, told_after: int, rng: Random) -> None:
    host = FakeHost(config(policy=policy, num_blocks=16, max_num_seqs=3), moods=rng)
    scheduler, host.pool.observer = host.scheduler, None
    for number in range(40):
        if number == told_after and scheduler.queues.pool is not None:
            host.pool.observer = Newcomer(scheduler.queues.pool.prefixes)
        prompt = [1] * rng.randint(0, 12) + [rng.choice([1, 2, 3])] * rng.randint(1, 8)
        host.add(request(f"r{number}", prompt, rng.randint(1, 6), task_class=rng.choice([ONLINE, OFFLINE])))
        host.step()
        waiting = list(scheduler.queues.waiting)
        for state in rng.sample(waiting, min(2, len(waiting))):
            hits = len(scheduler.kv.hit_blocks(state)) * scheduler.config.block_size
            assert scheduler._board.hit_tokens(state) == hits


def finds_per_step(prefix_tokens: int) -> float:
    """Chats that wait behind full seats and share what is cached, and a line of a batch behind them."""
    limits = {"num_blocks": 4000, "block_size": 16, "max_model_len": 40_000, "max_num_seqs": 4}
    wide = config(policy="brim", max_num_batched_tokens=8192, **limits)
    host, prefix = CountingHost(wide, named(wide, step_time=STEP_TIME)), range(prefix_tokens)
    host.add(request("first", [*prefix, 9], 1))
    while host.requests:
        host.step()
    slo = SLO(ttft_ns=10**12, itl_ns=1000 * MS)
    host.add(*(request(f"c{i}", [*prefix, 9, i], 2000, slo=slo) for i in range(4 + 16)))
    host.add(request("line", [3] * 100, 20, task_class=OFFLINE))
    for _ in range(8):
        host.step()
    assert (len(host.running), len(host.waiting)) == (4, 17)
    host.finds = 0
    for _ in range(10):
        host.step()
    return host.finds / 10


def test_a_step_does_not_walk_the_prefixes_of_those_that_wait() -> None:
    assert finds_per_step(16_000) == finds_per_step(160) < 64
