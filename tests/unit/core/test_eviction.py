"""Which cached block goes first: whom it served, and who still waits for it. A block's hash is its letter."""

from __future__ import annotations

from collections.abc import Hashable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from brim.core.errors import InvariantViolated
from brim.core.kvcache.eviction import Block, ByReuse, LeastRecentlyUsed, ReuseWatcher


class Wants:
    """How often each block is wanted; capital letters lie one block deeper."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts

    def watch(self, watcher: ReuseWatcher) -> None:
        self.watcher = watcher

    def reuse(self, block_hash: Hashable) -> int:
        return self.counts.get(str(block_hash), 0)

    def depth(self, block_hash: Hashable) -> int:
        return int(str(block_hash).isupper())

    def change(self, block_hash: str, count: int) -> None:
        before, self.counts[block_hash] = self.reuse(block_hash), count
        if count < before or before == 0:
            self.watcher.reuse_changed([block_hash])


def block(content: str, *, online: bool = False) -> Block:
    new = Block(ord(content))
    new.block_hash, new.online = content, online
    return new


def filled(wants: Wants, offline: str, online: str = "", *, online_last: bool = False) -> ByReuse:
    rule = ByReuse(wants, online_last=online_last)
    for content in online:
        rule.add(block(content, online=True))
    for content in offline:
        rule.add(block(content))
    return rule


def order(rule: ByReuse | LeastRecentlyUsed, count: int) -> str:
    return "".join(str(rule.pop().block_hash) for _ in range(count))


def test_least_recently_used_goes_by_release():
    rule = LeastRecentlyUsed()
    a, b, c = (block(content) for content in "abc")
    for released in (c, a, b):
        rule.add(released)
    rule.discard(a)
    assert (a in rule, b in rule, len(rule)) == (False, True, 2)
    rule.add(a)
    assert order(rule, 3) == "cba"


def test_the_unwanted_go_first_then_finished_online_then_the_least_wanted():
    assert order(filled(Wants(a=2, b=1), "abzy", online="on"), 6) == "zyonba"


def test_the_last_two_may_change_places():
    assert order(filled(Wants(a=2, b=1), "abzy", online="on", online_last=True), 6) == "zybaon"


def test_of_equally_wanted_blocks_leaves_go_before_parents():
    assert order(filled(Wants(a=2, b=1, B=1, A=2), "abBA"), 4) == "BbAa"


def test_how_much_an_online_block_is_wanted_does_not_count():
    assert order(filled(Wants(o=1, n=9), "", online="no"), 2) == "no"


def test_a_block_wanted_more_since_it_was_released_stays_longer():
    wants = Wants(a=1, b=2)
    rule = filled(wants, "ab")
    wants.change("a", 3)
    assert order(rule, 2) == "ba"


def test_a_block_wanted_less_since_it_was_released_goes_sooner():
    wants = Wants(a=3, b=2)
    rule = filled(wants, "ab")
    wants.change("a", 1)
    assert order(rule, 2) == "ab"


def test_a_thousand_changes_before_an_eviction_are_taken_in_together():
    wants = Wants(a=2000, b=500)
    rule = filled(wants, "ab")
    for count in range(2000, 400, -1):
        wants.change("a", count)
    assert len(rule._told) <= 257
    assert order(rule, 2) == "ab"
    assert not rule._told


def test_what_nobody_waits_for_leaves_in_the_order_in_which_its_readers_went():
    wants = Wants(a=1, b=1)
    rule = filled(wants, "abc")
    wants.change("b", 0)
    wants.change("a", 0)
    assert order(rule, 3) == "cba"


def test_a_block_that_becomes_wanted_or_unwanted_changes_its_class():
    wants = Wants(a=1)
    rule = filled(wants, "abc", online="o")
    wants.change("b", 1)
    wants.change("a", 0)
    assert order(rule, 4) == "caob"


def test_a_block_that_is_held_again_is_not_evicted():
    rule = ByReuse(Wants(b=1))
    blocks = [block("a"), block("b"), block("o", online=True)]
    for released in blocks:
        rule.add(released)
    assert all(released in rule for released in blocks)
    for held in blocks:
        rule.discard(held)
    assert not any(held in rule for held in blocks)
    with pytest.raises(InvariantViolated):
        rule.pop()


def test_ever_changing_wants_do_not_grow_the_order():
    wants = Wants(a=1, b=1)
    rule = filled(wants, "ab")
    for count in [*range(1000, 1, -1)] * 2:
        wants.change("a", count)
    assert len(rule._order) < 100
    assert order(rule, 2) == "ba"


events = st.tuples(
    st.sampled_from(["release", "hold", "want", "evict"]), st.sampled_from("abCD"), st.integers(0, 3)
)


@given(st.lists(events, max_size=60))
def test_after_any_history_the_least_wanted_goes_first(history):
    wants = Wants()
    rule = ByReuse(wants)
    blocks = {content: block(content) for content in "abCD"}
    cached: set[str] = set()
    for event, content, count in history:
        if event == "release" and content not in cached:
            rule.add(blocks[content])
            cached.add(content)
        elif event == "hold" and content in cached:
            rule.discard(blocks[content])
            cached.remove(content)
        elif event == "want":
            wants.change(content, count)
        elif event == "evict" and cached:
            victim = str(rule.pop().block_hash)
            least = min((wants.reuse(c), -wants.depth(c) * (wants.reuse(c) > 0)) for c in cached)
            assert (wants.reuse(victim), -wants.depth(victim) * (wants.reuse(victim) > 0)) == least
            cached.remove(victim)
        assert {c for c in "abCD" if blocks[c] in rule} == cached
