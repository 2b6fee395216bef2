"""Pools of 7 blocks: who holds them, what they contain, which one is evicted."""

from collections.abc import Sequence

import pytest

from brim.core.errors import InvariantViolated
from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.eviction import Block, LeastRecentlyUsed
from brim.core.kvcache.prefix_index import BlockHash


def pool(num_blocks: int = 7) -> BlockPool:
    return BlockPool(num_blocks, LeastRecentlyUsed())


def counts(blocks: BlockPool) -> tuple[int, int, int]:
    return blocks.num_free, blocks.num_cached, blocks.num_used


def cached(num_blocks: int = 7) -> BlockPool:
    """Every block has content (of block i: the byte i), nobody holds any, block 0 was released first."""
    blocks = pool(num_blocks)
    for block_id in blocks.take(num_blocks):
        blocks.publish(block_id, bytes([block_id]))
        blocks.release([block_id])
    return blocks


def test_a_fresh_pool_hands_out_its_blocks_from_zero_up():
    blocks = pool()
    assert blocks.take(7) == [0, 1, 2, 3, 4, 5, 6]
    assert counts(blocks) == (0, 0, 7)


def test_a_released_block_without_content_is_free_and_taken_next():
    blocks = pool()
    taken = blocks.take(3)
    blocks.release([taken[1]])
    assert counts(blocks) == (5, 0, 2)
    assert blocks.take() == [1]


def test_a_released_block_with_content_is_cached():
    blocks = pool()
    blocks.publish(*blocks.take(), b"a")
    blocks.release([0])
    assert counts(blocks) == (6, 1, 0)
    assert blocks.num_available == 7
    assert blocks.index.get(b"a") == 0


def test_a_cached_block_can_be_held_again_with_its_content():
    blocks = cached(1)
    blocks.hold(0)
    assert counts(blocks) == (0, 0, 1)
    assert blocks.index.get(b"\0") == 0


def test_a_block_stays_used_until_its_last_holder_lets_go():
    blocks = pool()
    blocks.publish(*blocks.take(), b"a")
    blocks.hold(0)
    assert blocks.ref_count(0) == 2
    blocks.release([0])
    assert counts(blocks) == (6, 0, 1)
    blocks.release([0])
    assert counts(blocks) == (6, 1, 0)


def test_free_blocks_are_taken_before_cached_ones_are_evicted():
    blocks = pool(2)
    blocks.publish(*blocks.take(), b"a")
    blocks.release([0])
    assert blocks.take() == [1]
    assert blocks.index.get(b"a") == 0


def test_the_block_released_longest_ago_is_evicted_first():
    blocks = cached()
    blocks.hold(0)
    blocks.release([0])
    assert blocks.take(7) == [1, 2, 3, 4, 5, 6, 0]


def test_an_evicted_block_is_not_found_any_more():
    blocks = cached()
    blocks.take()
    assert blocks.index.get(b"\0") is None
    assert counts(blocks) == (0, 6, 1)


def test_a_held_block_is_never_evicted_though_it_was_released_before():
    blocks = cached(3)
    blocks.hold(0)
    assert blocks.take(2) == [1, 2]
    with pytest.raises(InvariantViolated, match="none is available"):
        blocks.take()


def test_a_release_after_an_eviction_and_new_content_counts_from_then_on():
    blocks = cached(2)  # 0 was released before 1
    assert blocks.take() == [0]
    blocks.publish(0, b"new")
    blocks.release([0])
    assert blocks.take(2) == [1, 0]


def test_the_end_of_a_table_given_end_first_is_evicted_first():
    blocks = pool(3)
    table = blocks.take(3)
    for block_id in table:
        blocks.publish(block_id, bytes([block_id]))
    blocks.release(reversed(table))
    assert blocks.take(3) == [2, 1, 0]


def test_the_first_block_of_a_content_stays_the_one_that_is_found():
    blocks = pool()
    blocks.publish(*blocks.take(), b"a")
    blocks.publish(*blocks.take(), b"a")
    assert blocks.index.get(b"a") == 0
    blocks.release([1])
    assert counts(blocks) == (6, 0, 1)  # the double has no content that counts
    blocks.check([0])


def test_a_block_held_and_released_again_is_evicted_last():
    blocks = cached()
    for _ in range(1000):
        blocks.hold(3)
        blocks.release([3])
    assert blocks.take(7) == [0, 1, 2, 4, 5, 6, 3]


def test_another_eviction_rule_is_another_collection():
    class NewestFirst(list[Block]):
        by_class = False
        add, discard = list.append, list.remove

    blocks = BlockPool(3, NewestFirst())
    for block_id in blocks.take(3):
        blocks.publish(block_id, bytes([block_id]))
        blocks.release([block_id])
    blocks.hold(1)
    assert blocks.take(2) == [2, 0]


def test_an_observer_is_told_of_evictions():
    class Observer:
        def __init__(self) -> None:
            self.evictions: list[BlockHash] = []

        def published(self, hashes: Sequence[BlockHash], start: int, stop: int) -> None:
            """Told by the manager."""

        def evicted(self, block_hash: BlockHash) -> None:
            self.evictions.append(block_hash)

    observer = Observer()
    blocks = BlockPool(2, LeastRecentlyUsed(), observer)
    for block_id in blocks.take(2):
        blocks.publish(block_id, bytes([block_id]))
    blocks.release([1, 0])
    assert observer.evictions == []
    blocks.take(2)
    assert observer.evictions == [b"\1", b"\0"]


def test_a_block_is_online_until_its_content_is_evicted():
    blocks = pool(2)
    whole, part = blocks.take(2)
    blocks.publish(whole, b"a")
    blocks.mark_online([whole, part])
    assert [blocks._blocks[block_id].online for block_id in (whole, part)] == [True, False]
    blocks.release([part, whole])
    blocks.take(2)
    assert not blocks._blocks[whole].online


def test_check_accepts_free_cached_and_shared_blocks():
    blocks = cached(3)
    blocks.hold(1)
    blocks.hold(1)
    blocks.check([1, 1])


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda blocks: blocks.release([0]), "held or has content"),
        (lambda blocks: blocks.hold(1), "holders"),
        (lambda blocks: blocks._free.append(6), "free twice"),
        (lambda blocks: blocks._free.append(0), "held or has content"),
        (lambda blocks: blocks._free.pop(), "not the whole pool"),
        (lambda blocks: blocks.eviction.pop(), "that can be evicted"),
        (lambda blocks: blocks.index.add(b"lost", 5), "without that content"),
        (lambda blocks: blocks.index.add(b"cached", 5), "not the one that the index finds"),
    ],
)
def test_check_finds_every_kind_of_broken_books(break_it, complaint):
    blocks = pool()
    held, unheld = blocks.take(2)
    blocks.publish(unheld, b"cached")
    blocks.release([unheld])
    blocks.check([held])
    break_it(blocks)
    with pytest.raises(InvariantViolated, match=complaint):
        blocks.check([held])
