"""The layout of one step: where its tokens are written in the KV pool, and what each of them attends to.

The rows of a step are flattened into one sequence of tokens, decodes (rows of one token) first, sorted
by context length so that neighbours can be attended together:

    tokens     d d d d | c c c c c c | c c c
    groups     [g0 ][g1]                        decodes, padded to the longest of their group
    pieces             [p0 ][p1   ] [p2 ]       chunks, cut where their mask would grow too large
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

MAX_PADDING = 1.25  # gathered blocks of a group, over the blocks it needs
MAX_GROUP_BYTES = 2 << 20  # keys and values one group gathers in a layer: they should stay in the cache
MAX_MASK_ELEMENTS = 1 << 20  # of one piece


class DecodeGroup(NamedTuple):
    """Tokens `lo:hi`, one of each row, attended over `num_slots` gathered slots a row.

    `rows` [(hi - lo) * kv_heads * blocks] are (block, head) rows of the pool. `mask`
    [hi - lo, 1, 1, 1, num_slots] holds 0 or -inf, None where every slot is seen.
    """

    lo: int
    hi: int
    num_slots: int
    rows: torch.Tensor
    mask: torch.Tensor | None


class ChunkPiece(NamedTuple):
    """Tokens `lo:hi` of one row.

    They attend to the gathered `rows` [kv_heads * blocks] through `mask` [hi - lo, slots], or, where both
    are None, causally to their own keys only.
    """

    lo: int
    hi: int
    rows: torch.Tensor | None
    mask: torch.Tensor | None


class View(NamedTuple):
    """What the layers of one kind (window, KV heads) need."""

    write_rows: torch.Tensor  # [tokens * kv_heads] rows of the pool seen as [blocks * kv_heads * slots, dim]
    groups: list[DecodeGroup]
    pieces: list[ChunkPiece]


class StepLayout:
    """Made once a step from plain sizes; the view of each kind of layer is made when first asked for.

    `query_lens` [rows] new tokens, at positions `starts` [rows] and after; `block_tables[row]` covers
    at least `starts + query_lens` positions. Two rows never write the same block.
    """

    def __init__(
        self,
        query_lens: np.ndarray,
        starts: np.ndarray,
        block_tables: Sequence[Sequence[int]],
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._block_size, self._dtype, self._device = block_size, dtype, device
        order = np.lexsort((starts, query_lens > 1))
        self._lens, self._starts = query_lens[order], starts[order]
        self._ends = self._starts + self._lens
        self._first_token = np.cumsum(self._lens) - self._lens
        self._num_decodes = int((self._lens == 1).sum())

        needed = -(-self._ends // block_size)
        tables = [block_tables[row][:count] for row, count in zip(order, needed, strict=True)]
        self._blocks = np.fromiter(chain.from_iterable(tables), np.int64, int(needed.sum()))
        self._table_at = np.cumsum(needed) - needed

        token_row: np.ndarray = np.repeat(np.arange(len(order)), self._lens)
        within = np.arange(len(token_row)) - self._first_token[token_row]
        self.token_order = (np.cumsum(query_lens) - query_lens)[order][token_row] + within
        self.positions = self._starts[token_row] + within
        self._token_block = self._blocks[self._table_at[token_row] + self.positions // block_size]
        self.last_token: np.ndarray = np.empty(len(order), np.int64)
        self.last_token[order] = self._first_token + self._lens - 1

        last_block = needed - 1
        begun = (last_block * block_size >= self._starts) & (self._ends % block_size != 0)
        self.begun_blocks = self._tensor(self._blocks[(self._table_at + last_block)[begun]])
        self._views: dict[tuple[int | None, int, int, bool], View] = {}

    def view(self, window: int | None, kv_heads: int, block_bytes: int, *, fused: bool) -> View:
        """For layers that see the last `window` positions (None: all) and gather `block_bytes` a block.

        `fused`: chunks that start at position 0 may use causal attention over their own keys.
        """
        kind = (window, kv_heads, block_bytes, fused)
        if kind not in self._views:
            max_blocks = max(1, MAX_GROUP_BYTES // block_bytes)
            self._views[kind] = View(
                self._write_rows(kv_heads),
                self._decode_groups(window, kv_heads, max_blocks),
                self._chunk_pieces(window, kv_heads, fused),
            )
        return self._views[kind]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _mask(self, visible: np.ndarray) -> torch.Tensor:
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(self._tensor(~visible), float("-inf"))

    def _write_rows(self, kv_heads: int) -> torch.Tensor:
        block_heads = self._token_block[:, None] * kv_heads + np.arange(kv_heads)
        return self._tensor(
            (block_heads * self._block_size + (self.positions % self._block_size)[:, None]).ravel()
        )

    def _gather_rows(self, blocks: np.ndarray, kv_heads: int) -> torch.Tensor:
        """blocks [rows, n] -> (block, head) rows of the pool, ordered [rows, kv_heads, n]."""
        return self._tensor((blocks[:, None, :] * kv_heads + np.arange(kv_heads)[:, None]).ravel())

    def _first_block(self, position: np.ndarray, window: int | None) -> np.ndarray:
        """The block of the oldest position that the token at `position` sees."""
        oldest = 0 * position if window is None else np.maximum(position - window + 1, 0)
        return oldest // self._block_size

    def _decode_groups(self, window: int | None, kv_heads: int, max_blocks: int) -> list[DecodeGroup]:
        position = self._starts[: self._num_decodes]
        first = self._first_block(position, window)
        counts = position // self._block_size - first + 1
        groups = []
        for lo, hi in _cut(counts.tolist(), max_blocks):
            widest = int(counts[lo:hi].max())
            # Padding repeats a row's own last block, so that no row ever reads a neighbour's.
            index = np.minimum(np.arange(widest), counts[lo:hi, None] - 1) + first[lo:hi, None]
            blocks = self._blocks[self._table_at[lo:hi, None] + index]
            slots = first[lo:hi, None] * self._block_size + np.arange(widest * self._block_size)
            visible = _visible(position[lo:hi, None], slots, window)
            mask = None if visible.all() else self._mask(visible[:, None, None, None])
            rows = self._gather_rows(blocks, kv_heads)
            groups.append(DecodeGroup(lo, hi, widest * self._block_size, rows, mask))
        return groups

    def _chunk_pieces(self, window: int | None, kv_heads: int, fused: bool) -> list[ChunkPiece]:
        pieces = []
        for row in range(self._num_decodes, len(self._lens)):
            lo, start, end = (int(x[row]) for x in (self._first_token, self._starts, self._ends))
            if fused and start == 0 and (window is None or end <= window):
                pieces.append(ChunkPiece(lo, lo + end, None, None))
                continue
            stride = max(16, MAX_MASK_ELEMENTS // end)
            for at in range(start, end, stride):
                queries = np.arange(at, min(at + stride, end))
                piece = self._gathered_piece(row, queries, window, kv_heads)
                pieces.append(ChunkPiece(lo + at - start, lo + at - start + len(queries), *piece))
        return pieces

    def _gathered_piece(
        self, row: int, queries: np.ndarray, window: int | None, kv_heads: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = int(self._first_block(queries[:1], window)[0])
        last = int(queries[-1]) // self._block_size
        at = self._table_at[row]
        slots = np.arange(first * self._block_size, (last + 1) * self._block_size)
        mask = self._mask(_visible(queries[:, None], slots, window))
        return self._gather_rows(self._blocks[None, at + first : at + last + 1], kv_heads), mask


def _visible(queries: np.ndarray, keys: np.ndarray, window: int | None) -> np.ndarray:
    visible: np.ndarray = keys <= queries
    if window is not None:
        visible &= keys > queries - window
    return visible


def _cut(counts: Sequence[int], max_blocks: int) -> list[tuple[int, int]]:
    """Cuts rows that need `counts` blocks into runs, neither padded too much nor gathering too much."""
    cuts, lo = [], 0
    while lo < len(counts):
        hi, widest, total = lo, 0, 0
        while hi < len(counts):
            widest, total = max(widest, counts[hi]), total + counts[hi]
            gathered = widest * (hi + 1 - lo)
            if hi > lo and (gathered > total * MAX_PADDING or gathered > max_blocks):
                break
            hi += 1
        cuts.append((lo, hi))
        lo = hi
    return cuts
