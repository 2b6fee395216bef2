"""Paged attention: the function that transformers' models call in place of their own.

A pool holds the keys of one layer as [blocks, kv_heads, block_size, dim], the values likewise: a head's
slots of a block lie together, so a block is gathered as one row and a group of rows is one `bmm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from brim.engines.local.layout import ChunkPiece, DecodeGroup, StepLayout

IMPLEMENTATION = "brim_paged"  # unknown to AttentionMaskInterface: transformers then builds no mask
LAYER_ATTRIBUTE = "brim_paged_layer"


class LayerGeometry(NamedTuple):
    """One attention layer as it really calls the attention function."""

    module: torch.nn.Module
    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int


class Terms(NamedTuple):
    """How a layer wants its scores made; None for what it does not have. `sinks` [query_heads]."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def fused(self) -> bool:
        """Whether torch's own attention knows all of it."""
        return self.softcap is None and self.sinks is None


class Workspace:
    """What the layers of one model share: the layout of the step under way, and scratch memory."""

    def __init__(self) -> None:
        self._layout: StepLayout | None = None
        self._scratch: dict[str, torch.Tensor] = {}

    @property
    def layout(self) -> StepLayout:
        if self._layout is None:
            raise RuntimeError("paged attention was called outside a step")
        return self._layout

    @contextmanager
    def use(self, layout: StepLayout) -> Iterator[None]:
        """Inside, a step with this layout is under way."""
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    def gather(self, pool: torch.Tensor, rows: torch.Tensor, name: str) -> torch.Tensor:
        """The (block, head) `rows` of a pool as [rows, block_size * dim], in memory that is used again.

        A fresh allocation would cost several times the copy in page faults. The content is valid until
        the next gather under the same name.
        """
        width = pool.shape[2] * pool.shape[3]
        size = rows.numel() * width
        scratch = self._scratch.get(name)
        if scratch is None or scratch.numel() < size:
            scratch = self._scratch[name] = pool.new_empty(size + size // 2)
        return torch.index_select(pool.view(-1, width), 0, rows, out=scratch[:size].view(-1, width))


class PagedLayer:
    """The KV pool of one layer and attention over it."""

    def __init__(
        self,
        geometry: LayerGeometry,
        num_blocks: int,
        block_size: int,
        workspace: Workspace,
        like: torch.Tensor,
    ) -> None:
        """`like` gives dtype and device."""
        self._kv_heads = geometry.kv_heads
        self._workspace = workspace
        self._keys = like.new_zeros(num_blocks, geometry.kv_heads, block_size, geometry.key_dim)
        self._values = like.new_zeros(num_blocks, geometry.kv_heads, block_size, geometry.value_dim)
        self._block_bytes = block_size * slot_bytes(geometry, like.element_size())

    def clear(self, blocks: torch.Tensor) -> None:
        """Zeroes blocks whose last slots stay unwritten: a stale NaN there would outlive its zero weight."""
        self._keys.index_fill_(0, blocks, 0)
        self._values.index_fill_(0, blocks, 0)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, terms: Terms
    ) -> torch.Tensor:
        """Writes the step's keys and values [1, kv_heads, tokens, dim], then attends to the pool.

        query [1, query_heads, tokens, key_dim] -> [1, tokens, query_heads, value_dim].
        """
        layout = self._workspace.layout
        view = layout.view(terms.window, self._kv_heads, self._block_bytes, fused=terms.fused)
        _write(self._keys, key, view.write_rows)
        _write(self._values, value, view.write_rows)
        output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        for group in view.groups:
            output[group.lo : group.hi] = self._decode(query, group, terms)
        for piece in view.pieces:
            queries = query[:, :, piece.lo : piece.hi]
            keys, values = self._piece_kv(key, value, piece)
            attend = _fused_chunk if terms.fused else _chunk
            output[piece.lo : piece.hi] = attend(queries, keys, values, piece.mask, terms)
        return output[None]

    def _decode(self, query: torch.Tensor, group: DecodeGroup, terms: Terms) -> torch.Tensor:
        """-> [rows, query_heads, value_dim], one query a row, all rows in two batched products."""
        rows, heads = group.hi - group.lo, self._kv_heads
        share = query.shape[1] // heads  # query heads that share one KV head
        shape = (rows * heads, group.num_slots, -1)
        keys = self._workspace.gather(self._keys, group.rows, "keys").view(shape)
        values = self._workspace.gather(self._values, group.rows, "values").view(shape)
        queries = query[0, :, group.lo : group.hi].transpose(0, 1).reshape(rows * heads, share, -1)
        scores = torch.bmm(queries * terms.scaling, keys.transpose(1, 2)).view(rows, heads, share, 1, -1)
        weights = _softmax(scores, group.mask, terms).view(rows * heads, share, -1)
        return torch.bmm(weights, values).view(rows, query.shape[1], -1)

    def _piece_kv(
        self, key: torch.Tensor, value: torch.Tensor, piece: ChunkPiece
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [1, kv_heads, slots, dim] of a piece."""
        if piece.rows is None:
            return key[:, :, piece.lo : piece.hi], value[:, :, piece.lo : piece.hi]
        shape = (1, self._kv_heads, piece.rows.numel() // self._kv_heads * self._keys.shape[2], -1)
        keys = self._workspace.gather(self._keys, piece.rows, "keys").view(shape)
        return keys, self._workspace.gather(self._values, piece.rows, "values").view(shape)


def slot_bytes(geometry: LayerGeometry, element_size: int) -> int:
    """Bytes of one token's keys and values in one layer."""
    return geometry.kv_heads * (geometry.key_dim + geometry.value_dim) * element_size


def _write(pool: torch.Tensor, fresh: torch.Tensor, rows: torch.Tensor) -> None:
    dim = fresh.shape[3]
    pool.view(-1, dim).index_copy_(0, rows, fresh[0].transpose(0, 1).reshape(-1, dim))


def _fused_chunk(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, terms: Terms
) -> torch.Tensor:
    """-> [tokens, query_heads, value_dim]; without a mask, causally."""
    attended: torch.Tensor = F.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=terms.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return attended[0].transpose(0, 1)


def _chunk(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, terms: Terms
) -> torch.Tensor:
    """-> [tokens, query_heads, value_dim]; for soft caps and sinks."""
    heads, tokens = keys.shape[1], query.shape[2]
    share = query.shape[1] // heads
    queries = (query[0] * terms.scaling).reshape(heads, share * tokens, -1)
    scores = torch.bmm(queries, keys[0].transpose(1, 2)).view(heads, share, tokens, -1)
    weights = _softmax(scores, mask, terms).view(heads, share * tokens, -1)
    return torch.bmm(weights, values[0]).view(heads * share, tokens, -1).transpose(0, 1)


def _softmax(scores: torch.Tensor, mask: torch.Tensor | None, terms: Terms) -> torch.Tensor:
    """Scores [..., kv_heads, share, tokens, slots] to weights; a sink takes some weight and gives nothing."""
    if terms.softcap is not None:
        scores = terms.softcap * torch.tanh(scores / terms.softcap)
    if mask is not None:
        scores += mask
    if terms.sinks is None:
        return torch.softmax(scores, -1)
    *_, heads, share, _, _ = scores.shape
    sinks = terms.sinks.to(scores.dtype).view(heads, share, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1].contiguous()


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """The function registered with transformers; the gate has made sure that `ignored` may be ignored."""
    layer: PagedLayer = getattr(module, LAYER_ATTRIBUTE)
    if scaling is None:
        scaling = 1 / math.sqrt(query.shape[3])
    terms = Terms(scaling, sliding_window, softcap or None, s_aux)
    return layer.attend(query, key, value, terms), None


AttentionInterface.register(IMPLEMENTATION, paged_attention)
