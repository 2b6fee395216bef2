"""A transformers model over a paged KV pool: plain sizes and block tables in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from brim.engines.local.attention import (
    IMPLEMENTATION,
    LAYER_ATTRIBUTE,
    LayerGeometry,
    PagedLayer,
    Workspace,
    slot_bytes,
)
from brim.engines.local.layout import StepLayout


class PagedModel:
    """Runs steps; knows neither requests nor plans.

    `geometry` comes from the gate: how each layer really calls attention.
    """

    def __init__(self, model: Any, geometry: Sequence[LayerGeometry], block_size: int) -> None:
        self.block_size = block_size
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self._model = model
        self._geometry = geometry
        self._layers: list[PagedLayer] = []
        self._workspace = Workspace()
        model.set_attn_implementation(IMPLEMENTATION)

    @property
    def block_bytes(self) -> int:
        """Bytes one block takes, all layers together."""
        return self.block_size * sum(slot_bytes(layer, self.dtype.itemsize) for layer in self._geometry)

    def allocate(self, num_blocks: int) -> None:
        """Makes the pool, in place of the one before."""
        self._layers.clear()
        for geometry in self._geometry:
            setattr(geometry.module, LAYER_ATTRIBUTE, None)  # let the old pool go before the new one comes
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        for geometry in self._geometry:
            layer = PagedLayer(geometry, num_blocks, self.block_size, self._workspace, like)
            setattr(geometry.module, LAYER_ATTRIBUTE, layer)
            self._layers.append(layer)

    def step(
        self,
        token_ids: np.ndarray,
        query_lens: np.ndarray,
        starts: np.ndarray,
        block_tables: Sequence[Sequence[int]],
        sample_rows: np.ndarray,
    ) -> torch.Tensor:
        """One forward pass over all rows.

        `token_ids` [sum(query_lens)] are the new tokens of every row, row after row; a row's first one
        stands at position `starts[row]`. Position p lives in block `block_tables[row][p // block_size]`.
        Returns the logits [len(sample_rows), vocab] of the last token of each of `sample_rows`.
        """
        layout = StepLayout(query_lens, starts, block_tables, self.block_size, self.dtype, self.device)
        with torch.inference_mode(), self._workspace.use(layout):
            for layer in self._layers:
                layer.clear(layout.begun_blocks)
            logits: torch.Tensor = self._model(
                input_ids=self._tensor(token_ids[layout.token_order])[None],
                position_ids=self._tensor(layout.positions)[None],
                logits_to_keep=self._tensor(layout.last_token[sample_rows]),
                use_cache=False,
            ).logits[0]
        return logits

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
