"""LocalEngine: runs Brim's plans on a transformers model in this process."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from brim.core.errors import EngineDead
from brim.core.plan import Chunk, StepPlan, StepResult
from brim.engines.base import EngineCaps
from brim.engines.local.model import PagedModel
from brim.engines.local.sampling import Drawn, Row, draw

NOT_FINITE = "the model computed non-finite logits for this request"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step whose result may still be on its way from the device."""

    request_ids: list[str]
    rows: list[Row]
    drawn: Drawn | None


class LocalEngine:
    """One plan at a time: `begin` runs the forward pass and draws, `finish` fetches what was drawn."""

    def __init__(self, paged: PagedModel, caps: EngineCaps, *, seed: int = 0) -> None:
        """`seed` decides the draws of requests that bring none."""
        self._paged: PagedModel | None = paged
        self._caps = caps
        self._seed = seed
        self._begun: _Begun | None = None

    @property
    def caps(self) -> EngineCaps:
        return self._caps

    def begin(self, plan: StepPlan) -> None:
        """Starts the step. Raises EngineDead once the device is lost; any other error is this step's."""
        if self._paged is None:
            raise EngineDead("the engine is closed")
        self._begun = None
        try:
            self._begun = self._run(self._paged, plan)
        except torch.AcceleratorError as error:
            raise EngineDead(f"the device failed: {error}") from error

    def finish(self) -> StepResult:
        """The result of the step begun last."""
        if self._begun is None:
            raise RuntimeError("finish() without a step begun")
        begun, self._begun = self._begun, None
        if begun.drawn is None:
            return StepResult(())
        try:
            tokens = begun.drawn.tokens.tolist()
            finite = begun.drawn.finite.tolist()
            logprobs = begun.drawn.logprobs(begun.rows)
        except torch.AcceleratorError as error:
            raise EngineDead(f"the device failed: {error}") from error
        ids = begun.request_ids
        return StepResult(
            tokens,
            {ids[row]: entry for row, entry in logprobs.items() if finite[row]},
            {ids[row]: NOT_FINITE for row, good in enumerate(finite) if not good},
        )

    def close(self) -> None:
        """Gives the pool and the model's memory back."""
        self._paged = self._begun = None
        if self._caps.device != "cpu":
            torch.cuda.empty_cache()

    def _run(self, paged: PagedModel, plan: StepPlan) -> _Begun:
        chunks = plan.rows()
        token_ids = np.fromiter(
            chain.from_iterable(
                chunk.state.token_ids[chunk.start : chunk.start + chunk.num_tokens] for chunk in chunks
            ),
            np.int64,
        )
        if token_ids.max() >= self._caps.vocab_size or token_ids.min() < 0:
            raise ValueError(f"a token id is outside the vocabulary of {self._caps.vocab_size}")
        logits = paged.step(
            token_ids,
            np.array([chunk.num_tokens for chunk in chunks]),
            np.array([chunk.start for chunk in chunks]),
            [chunk.state.block_ids for chunk in chunks],
            np.array([at for at, chunk in enumerate(chunks) if chunk.samples], dtype=np.int64),
        )
        sampled = [chunk for chunk in chunks if chunk.samples]
        rows = [self._row(chunk) for chunk in sampled]
        with torch.inference_mode():
            drawn = draw(logits, rows) if rows else None
        return _Begun([chunk.state.request.request_id for chunk in sampled], rows, drawn)

    def _row(self, chunk: Chunk) -> Row:
        state, num_known = chunk.state, chunk.start + chunk.num_tokens
        params = state.request.sampling
        seed = f"{self._seed}/{state.request.request_id}" if params.seed is None else str(params.seed)
        known = state.token_ids if len(state.token_ids) == num_known else state.token_ids[:num_known]
        return Row(params, seed, known, state.num_prompt_tokens)
