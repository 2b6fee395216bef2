"""Caches of 7 blocks: tables for requests, and prefixes found again."""

import pytest

from brim.core.errors import InvariantViolated
from brim.core.kvcache.block_pool import BlockPool
from brim.core.kvcache.manager import KVCacheManager
from brim.core.request import RequestState
from tests.helpers import compute, request, state


def manager(block_size: int = 4, num_blocks: int = 7, observer=None, **options) -> KVCacheManager:
    return KVCacheManager(BlockPool(num_blocks, observer=observer), block_size, **options)


def enter(kv: KVCacheManager, request_id: str, prompt, **facts) -> RequestState:
    """A request admitted, its whole prompt computed and published."""
    entering = state(request(request_id, prompt, **facts))
    cached_tokens = kv.admit(entering)
    assert cached_tokens is not None
    entering.admit(cached_tokens)
    entering.schedule(entering.num_tokens - cached_tokens)
    compute(entering, entering.num_tokens - cached_tokens)
    kv.publish_computed(entering)
    return entering


def leave(kv: KVCacheManager, leaving: RequestState) -> None:
    kv.give_back(kv.detach(leaving))
    kv.forget(leaving.request.request_id)


def counts(kv: KVCacheManager) -> tuple[int, int, int]:
    return kv.free_blocks, kv.cached_blocks, kv.used_blocks


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (28, 7)])
def test_a_last_part_of_a_block_needs_a_whole_one(tokens, blocks):
    assert manager().blocks_for(tokens) == blocks


def test_a_request_enters_with_blocks_for_all_its_known_tokens():
    kv = manager()
    a = enter(kv, "a", 9)
    assert a.block_ids == [0, 1, 2]
    assert counts(kv) == (4, 0, 3)


def test_blocks_of_one_token_give_one_block_a_token():
    kv = manager(block_size=1)
    assert enter(kv, "a", 3).block_ids == [0, 1, 2]
    assert enter(kv, "b", 4).block_ids == [3, 4, 5, 6]


def test_an_admission_that_does_not_fit_changes_nothing():
    kv = manager()
    enter(kv, "a", 20)
    late = state(request("b", 12))
    assert kv.admission_blocks(late) == 3
    assert kv.admit(late) is None
    assert late.block_ids == []
    assert counts(kv) == (2, 0, 5)


def test_an_admission_that_does_not_fit_keeps_no_hashes_that_were_not_there():
    kv = manager()
    enter(kv, "a", 20)
    late, looked_at = state(request("b", 12)), state(request("c", 12))
    kv.hit_blocks(looked_at)
    assert kv.admit(late) is kv.admit(looked_at) is None
    assert set(kv._contents) == {"a", "c"}


def test_a_shared_prefix_shares_its_blocks():
    kv = manager()
    a = enter(kv, "a", range(9))
    b = enter(kv, "b", [*range(8), 50, 51])
    assert a.block_ids == [0, 1, 2]
    assert b.block_ids == [0, 1, 3]
    kv.check([a, b])


def test_a_partial_block_is_never_hit():
    kv = manager()
    enter(kv, "a", range(7))
    assert kv.hit_blocks(state(request("b", range(7)))) == [0]


def test_the_whole_prompt_is_never_hit_for_its_last_token_has_to_run():
    kv = manager()
    enter(kv, "a", range(8))
    assert kv.hit_blocks(state(request("b", range(8)))) == [0]
    assert kv.hit_blocks(state(request("c", range(9)))) == [0, 1]


def test_with_blocks_of_one_token_all_but_the_last_token_hit():
    kv = manager(block_size=1)
    enter(kv, "a", range(3))
    assert kv.hit_blocks(state(request("b", range(3)))) == [0, 1]


def test_another_salt_hits_nothing():
    kv = manager()
    enter(kv, "a", range(9), cache_salt="one")
    assert kv.hit_blocks(state(request("b", range(9), cache_salt="two"))) == []
    assert kv.hit_blocks(state(request("c", range(9)))) == []
    assert kv.hit_blocks(state(request("d", range(9), cache_salt="one"))) == [0, 1]


def test_without_prefix_caching_nothing_is_hit_and_nothing_stays_cached():
    kv = manager(prefix_caching=False)
    leave(kv, enter(kv, "a", range(9)))
    assert kv.hit_blocks(state(request("b", range(9)))) == []
    assert counts(kv) == (7, 0, 0)


def test_blocks_are_found_only_once_they_are_computed():
    kv = manager()
    a = state(request("a", range(12)))
    a.admit(kv.admit(a) or 0)
    a.schedule(7)
    b = state(request("b", range(12)))
    assert kv.hit_blocks(b) == []
    compute(a, 7)
    kv.publish_computed(a)
    assert kv.hit_blocks(b) == [0]


def test_an_output_is_found_after_its_request_has_left():
    kv = manager()
    a = enter(kv, "a", range(6))
    for token_id in (6, 7, 8):
        assert kv.grow(a, a.num_tokens + 1)
        a.append(token_id)
    b = state(request("b", range(12)))
    assert kv.hit_blocks(b) == [0]
    kv.publish_computed(a)  # tokens 0 to 7 are computed
    leave(kv, a)
    assert kv.hit_blocks(b) == [0, 1]


def test_a_gone_request_leaves_its_whole_blocks_cached_and_the_rest_free():
    kv = manager()
    leave(kv, enter(kv, "a", range(9)))
    assert counts(kv) == (5, 2, 0)


def test_an_admission_uses_up_new_blocks_and_hits_that_nobody_holds():
    kv = manager()
    a = enter(kv, "a", range(9))
    again = state(request("b", range(9)))
    assert kv.admission_blocks(again) == 1
    leave(kv, a)
    assert kv.admission_blocks(again) == 3


def test_hits_are_not_evicted_by_the_admission_that_found_them():
    kv = manager(num_blocks=3)
    leave(kv, enter(kv, "a", range(9)))  # 0 and 1 are cached, 2 is free
    b = enter(kv, "b", range(10))
    assert b.block_ids == [0, 1, 2]
    assert counts(kv) == (0, 0, 3)


def test_leaves_are_evicted_before_their_parents():
    kv = manager(num_blocks=3)
    leave(kv, enter(kv, "a", range(12)))
    enter(kv, "b", 4)  # evicts the block of tokens 8 to 11
    assert kv.hit_blocks(state(request("c", range(12)))) == [0, 1]


def test_an_observer_is_told_what_can_be_found_and_what_no_more():
    told: list[tuple] = []

    class Observer:
        def published(self, hashes, start, stop):
            told.append((start, stop, list(hashes[:stop])))

        def evicted(self, block_hash):
            told.append((block_hash,))

    kv = manager(observer=Observer())
    first, second = kv.usable_hashes(state(request("z", range(9))))
    a = state(request("a", range(9)))
    a.admit(kv.admit(a) or 0)
    for tokens, times in ((5, 1), (2, 1), (2, 2)):
        a.schedule(tokens)
        compute(a, tokens)
        for _ in range(times):
            kv.publish_computed(a)
    assert told == [(0, 1, [first]), (1, 2, [first, second])]
    leave(kv, a)
    leave(kv, enter(kv, "b", 28))
    assert told[2:4] == [(second,), (first,)]


@pytest.mark.parametrize(("tokens", "usable"), [(4, 0), (5, 1), (8, 1), (9, 2)])
def test_the_hashes_that_a_hit_may_use_leave_the_last_token_out(tokens, usable):
    assert len(manager().usable_hashes(state(request("a", tokens)))) == usable
    assert len(manager(prefix_caching=False).usable_hashes(state(request("a", tokens)))) == 0


def test_growing_hands_out_a_block_when_the_table_ends():
    kv = manager()
    a = enter(kv, "a", 4)
    assert kv.grow(a, 4)
    assert a.block_ids == [0]
    assert kv.grow(a, 5)
    assert a.block_ids == [0, 1]


def test_growing_without_enough_blocks_changes_nothing():
    kv = manager()
    a = enter(kv, "a", 24)
    assert not kv.grow(a, 36)
    assert a.block_ids == [0, 1, 2, 3, 4, 5]
    assert kv.free_blocks == 1


def test_only_blocks_without_another_holder_come_free():
    kv = manager()
    a = enter(kv, "a", range(9))
    assert kv.freeable_blocks([a.block_ids]) == 3
    b = enter(kv, "b", range(9))
    assert kv.freeable_blocks([a.block_ids]) == kv.freeable_blocks([b.block_ids]) == 1
    assert kv.freeable_blocks([a.block_ids, b.block_ids]) == 4


def test_a_detached_table_stays_used_until_it_is_given_back():
    kv = manager()
    a = enter(kv, "a", range(9))
    table = kv.detach(a)
    assert a.block_ids == []
    assert counts(kv) == (4, 0, 3)
    kv.check([], [table])
    kv.give_back(table)
    assert counts(kv) == (5, 2, 0)


def test_the_same_content_computed_twice_is_found_once_and_freed_once():
    kv = manager()
    a, b = state(request("a", range(9))), state(request("b", range(9)))
    for entering in (a, b):
        assert kv.admit(entering) == 0  # b enters before a's blocks are computed
        entering.admit(0)
        entering.schedule(9)
    for computed in (a, b):
        compute(computed, 9)
        kv.publish_computed(computed)
    assert kv.hit_blocks(state(request("c", range(9)))) == [0, 1]
    kv.check([a, b])
    leave(kv, b)
    assert counts(kv) == (4, 0, 3)
    leave(kv, a)
    assert counts(kv) == (5, 2, 0)


def test_a_readmitted_request_publishes_only_what_it_did_not_hit():
    kv = manager()
    a = enter(kv, "a", range(12))
    kv.give_back(kv.detach(a))
    a.preempt()
    assert kv.admit(a) == 8  # the last token has to run
    assert a.block_ids[:2] == [0, 1]
    a.admit(8)
    a.schedule(4)
    compute(a, 4)
    kv.publish_computed(a)
    kv.check([a])


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda kv, a, b: a.block_ids.append(a.block_ids[-1]), "holders"),
        (lambda kv, a, b: b.block_ids.pop(), "not the whole pool"),
        (lambda kv, a, b: kv.give_back([a.block_ids[0]]), "holders"),
        (lambda kv, a, b: a.schedule(4), "writes beyond"),
        (lambda kv, a, b: a.preempt(), "writes into a shared block"),
    ],
)
def test_check_finds_every_kind_of_broken_table(break_it, complaint):
    kv = manager()
    a, b = enter(kv, "a", range(9)), enter(kv, "b", range(9))
    kv.check([a, b])
    break_it(kv, a, b)
    with pytest.raises(InvariantViolated, match=complaint):
        kv.check([a, b])


def test_check_finds_a_block_that_a_table_names_twice():
    kv = manager()
    a = enter(kv, "a", range(9))
    kv._pool.hold(a.block_ids[0])
    a.block_ids[1:2] = [a.block_ids[0]]
    kv._pool.release([1])
    with pytest.raises(InvariantViolated, match="a block twice"):
        kv.check([a])
