from __future__ import annotations

import numpy as np
import torch

from brim.engines.local.layout import StepLayout, _cut


def make(lens: list[int], starts: list[int], tables: list[list[int]]) -> StepLayout:
    return StepLayout(np.array(lens), np.array(starts), tables, 4, torch.float32, torch.device("cpu"))


def test_decodes_come_first_shortest_context_first() -> None:
    layout = make([3, 1, 1], [0, 9, 2], [[7], [0, 1, 2], [5]])
    assert layout.token_order.tolist() == [4, 3, 0, 1, 2]
    assert layout.positions.tolist() == [2, 9, 0, 1, 2]
    assert layout.last_token.tolist() == [4, 1, 0]


def test_tokens_are_written_where_the_block_table_says() -> None:
    layout = make([3], [3], [[6, 2]])
    view = layout.view(None, 2, 1024, fused=True)
    # (block * heads + head) * block_size + slot
    assert view.write_rows.tolist() == [51, 55, 16, 20, 17, 21]


def test_only_blocks_begun_and_not_filled_are_cleared() -> None:
    layout = make([1, 1, 4, 6, 2], [4, 5, 0, 0, 1], [[0, 1], [2, 3], [4], [5, 6], [7]])
    assert sorted(layout.begun_blocks.tolist()) == [1, 6]


def test_a_group_pads_a_row_with_its_own_last_block() -> None:
    layout = make([1, 1], [14, 16], [[0, 1, 2, 3], [9, 8, 7, 6, 5]])
    (group,) = layout.view(None, 1, 1024, fused=True).groups
    assert group.rows.view(2, 5).tolist() == [[0, 1, 2, 3, 3], [9, 8, 7, 6, 5]]
    assert group.mask is not None
    assert (group.mask[:, 0, 0, 0] == 0).sum(-1).tolist() == [15, 17]


def test_a_window_gathers_only_the_blocks_it_sees() -> None:
    layout = make([1], [17], [[9, 8, 7, 6, 5]])
    (group,) = layout.view(5, 1, 1024, fused=True).groups
    assert group.rows.tolist() == [6, 5]  # positions 13..17
    assert group.mask is not None
    assert (group.mask[0, 0, 0, 0] == 0).int().tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_a_fresh_chunk_gathers_nothing() -> None:
    (piece,) = make([6], [0], [[1, 2]]).view(None, 1, 1024, fused=True).pieces
    assert (piece.lo, piece.hi, piece.rows, piece.mask) == (0, 6, None, None)


def test_groups_are_cut_where_padding_or_memory_would_grow() -> None:
    assert _cut([1, 1, 1, 9, 9], 100) == [(0, 3), (3, 5)]
    assert _cut([4, 4, 4, 4], 8) == [(0, 2), (2, 4)]
    assert _cut([50], 8) == [(0, 1)]
    assert _cut([], 8) == []
