"""Blocks of online requests, each counted once."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from brim.core.kvcache.online_blocks import OnlineBlocks

TABLES = st.lists(st.sets(st.integers(0, 6)).map(sorted), max_size=6)


def test_a_shared_block_counts_until_the_last_lets_go():
    online = OnlineBlocks()
    online.hold([0, 1, 2])
    online.hold([2, 3])
    assert len(online) == 4
    online.release([0, 1, 2])
    assert len(online) == 2
    online.release([2, 3])
    assert len(online) == 0


@given(TABLES, st.data())
def test_any_history_leaves_what_a_recount_finds(tables, data):
    online, held = OnlineBlocks(), []
    for table in tables:
        online.hold(table)
        held.append(table)
        if data.draw(st.booleans()):
            online.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        assert len(online) == len(Counter(block for one in held for block in one))
