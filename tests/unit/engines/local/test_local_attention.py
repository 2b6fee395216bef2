"""Paged attention against the plain formula, on ragged batches over shuffled blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.engines.local import layout as layout_module
from brim.engines.local.attention import LayerGeometry, PagedLayer, Terms, Workspace
from brim.engines.local.layout import StepLayout

BLOCK = 4
KV_HEADS, SHARE, KEY_DIM, VALUE_DIM = 2, 3, 8, 6
GEOMETRY = LayerGeometry(torch.nn.Identity(), KV_HEADS * SHARE, KV_HEADS, KEY_DIM, VALUE_DIM)


class Bench:
    """One layer, and rows whose keys and values of all positions are known."""

    def __init__(self, contexts: list[int], seed: int = 0, dirt: float = 0.0) -> None:
        torch.manual_seed(seed)
        draw = np.random.default_rng(seed)
        needed = [-(-context // BLOCK) for context in contexts]
        blocks = iter(draw.permutation(sum(needed) + 3).tolist())
        self.tables = [[next(blocks) for _ in range(count)] for count in needed]
        self.query = [torch.randn(1, KV_HEADS * SHARE, context, KEY_DIM) for context in contexts]
        self.key = [torch.randn(1, KV_HEADS, context, KEY_DIM) for context in contexts]
        self.value = [torch.randn(1, KV_HEADS, context, VALUE_DIM) for context in contexts]
        self.workspace = Workspace()
        self.layer = PagedLayer(GEOMETRY, sum(needed) + 3, BLOCK, self.workspace, torch.empty(0))
        for pool in (self.layer._keys, self.layer._values):
            pool.fill_(dirt)

    def step(self, rows: list[tuple[int, int, int]], **how) -> list[torch.Tensor]:
        """Runs rows (which, start, end); returns each row's output [new tokens, heads, dim]."""
        which = [row for row, _, _ in rows]
        lens = np.array([end - start for _, start, end in rows])
        starts = np.array([start for _, start, _ in rows])
        tables = [self.tables[row] for row in which]
        layout = StepLayout(lens, starts, tables, BLOCK, torch.float32, torch.device("cpu"))
        order = torch.from_numpy(layout.token_order)
        flat = [
            torch.cat([known[row][:, :, start:end] for row, start, end in rows], 2)[:, :, order]
            for known in (self.query, self.key, self.value)
        ]
        with self.workspace.use(layout):
            self.layer.clear(layout.begun_blocks)
            output = self.layer.attend(*flat, Terms(1 / math.sqrt(KEY_DIM), **how))[0]
        back = torch.empty_like(output)
        back[order] = output
        return list(back.split(lens.tolist()))

    def plain(self, row: int, start: int, end: int, window=None, softcap=None, sinks=None) -> torch.Tensor:
        key = self.key[row][0, :, :end].repeat_interleave(SHARE, 0)
        value = self.value[row][0, :, :end].repeat_interleave(SHARE, 0)
        scores = self.query[row][0, :, start:end] @ key.transpose(1, 2) / math.sqrt(KEY_DIM)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        distance = torch.arange(start, end)[:, None] - torch.arange(end)
        unseen = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores = scores.masked_fill(unseen, -math.inf)
        if sinks is not None:
            column = sinks[:, None, None].expand(-1, end - start, 1)
            scores = torch.cat([scores, column], -1)
        return (scores.softmax(-1)[..., :end] @ value).transpose(0, 1)


@st.composite
def schedules(draw) -> tuple[list[int], list[int]]:
    """Contexts, and for each where the last of its two steps begins."""
    contexts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=7))
    return contexts, [draw(st.integers(0, context - 1)) for context in contexts]


@settings(max_examples=60, deadline=None)
@given(
    schedules(),
    st.sampled_from([None, 1, 5, 9]),
    st.sampled_from([None, 3.0]),
    st.booleans(),
    st.sampled_from([64, 1 << 20]),
)
def test_equals_the_plain_formula(schedule, window, softcap, with_sinks, limit) -> None:
    contexts, splits = schedule
    bench = Bench(contexts)
    sinks = torch.randn(KV_HEADS * SHARE) if with_sinks else None
    how = {"window": window, "softcap": softcap, "sinks": sinks}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_module, "MAX_GROUP_BYTES", limit * 64)  # small: many groups and pieces
        patch.setattr(layout_module, "MAX_MASK_ELEMENTS", limit)
        first = [(row, 0, split) for row, split in enumerate(splits) if split]
        last = [
            (row, split, context) for row, (split, context) in enumerate(zip(splits, contexts, strict=True))
        ]
        for rows in (first, last):
            for (row, start, end), output in zip(rows, bench.step(rows, **how) if rows else [], strict=True):
                torch.testing.assert_close(output, bench.plain(row, start, end, **how), rtol=1e-4, atol=1e-5)


def test_what_was_in_the_pool_before_does_not_matter() -> None:
    rows = [(0, 0, 6), (1, 0, 9)]
    bench = Bench([7, 10], dirt=math.nan)
    bench.step(rows)
    for row, output in enumerate(bench.step([(0, 6, 7), (1, 9, 10)])):
        torch.testing.assert_close(output, bench.plain(row, *[(6, 7), (9, 10)][row]), rtol=1e-4, atol=1e-5)


def test_a_broken_row_breaks_no_other() -> None:
    bench = Bench([7, 10, 3])
    bench.key[1][:] = math.nan
    bench.step([(0, 0, 6), (1, 0, 9), (2, 0, 2)])
    outputs = bench.step([(0, 6, 7), (1, 9, 10), (2, 2, 3)])
    assert [bool(output.isfinite().all()) for output in outputs] == [True, False, True]


def test_attention_outside_a_step_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="outside a step"):
        _ = Workspace().layout
