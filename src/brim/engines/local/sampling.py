"""Draws the next token of every row.

Stateless: what is drawn depends on the logits, the known tokens, and (seed, position), so a token that
is computed again, after a preemption or in another batch, is the same token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch

from brim.core.plan import TokenLogprobs
from brim.core.request import SamplingParams

MIN_TEMPERATURE = 1e-5  # below it a draw is greedy: the division would overflow
MOST = 1e30  # of a penalised logit: divided by any temperature it stays finite
FEW = 256  # tokens that nearly always hold the top p


class Row(NamedTuple):
    """What sampling needs to know of one request: `token_ids` are its known tokens, the prompt first."""

    params: SamplingParams
    seed: str
    token_ids: Sequence[int]
    num_prompt_tokens: int


@dataclass(slots=True)
class Drawn:
    """The outcome, still on the device: `tokens` [rows], `finite` [rows] false where the logits were broken.

    `logprobs` holds, for the rows `rows_with_logprobs`, the drawn token's and the top ones.
    """

    tokens: torch.Tensor
    finite: torch.Tensor
    rows_with_logprobs: list[int] = field(default_factory=list)
    own: torch.Tensor | None = None
    top: torch.Tensor | None = None
    top_tokens: torch.Tensor | None = None

    def logprobs(self, rows: Sequence[Row]) -> dict[int, TokenLogprobs]:
        """By row index; waits for the device."""
        if self.own is None or self.top is None or self.top_tokens is None:
            return {}
        tokens, own = self.tokens.tolist(), self.own.tolist()
        top, top_tokens = self.top.tolist(), self.top_tokens.tolist()
        entries = {}
        for at, row in enumerate(self.rows_with_logprobs):
            count = rows[row].params.logprobs or 0
            pairs = tuple(zip(top_tokens[at][:count], top[at], strict=False))
            entries[row] = TokenLogprobs(tokens[row], own[at], pairs)
        return entries


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> Drawn:
    """Draws one token for each row of `logits` [rows, vocab], which may be overwritten."""
    logits = logits.float()
    with_logprobs = [at for at, row in enumerate(rows) if row.params.logprobs is not None]
    raw = torch.log_softmax(logits[with_logprobs], -1) if with_logprobs else None
    finite = torch.isfinite(logits.amax(-1))  # NaN wins every maximum
    edited = [at for at, row in enumerate(rows) if _edits_logits(row)]
    if edited:
        _edit(logits, rows, edited)
    random = [at for at, row in enumerate(rows) if row.params.temperature >= MIN_TEMPERATURE]
    if len(random) == len(rows):
        tokens = _draw_random(logits, rows)
    else:
        tokens = _argmax(logits)
        if random:
            tokens[random] = _draw_random(logits[random], [rows[at] for at in random])

    drawn = Drawn(tokens, finite)
    if raw is not None:
        most = min(max(rows[at].params.logprobs or 0 for at in with_logprobs), logits.shape[1])
        drawn.rows_with_logprobs = with_logprobs
        drawn.own = raw.gather(1, tokens[with_logprobs][:, None])[:, 0]
        drawn.top, drawn.top_tokens = raw.topk(most, -1)
    return drawn


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    if logits.device.type == "cpu":  # numpy's is several times faster there
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _edits_logits(row: Row) -> bool:
    return bool(row.params.logit_bias or _too_short(row) or _has_penalty(row))


def _too_short(row: Row) -> bool:
    return len(row.token_ids) - row.num_prompt_tokens < row.params.min_tokens


def _has_penalty(row: Row) -> bool:
    params = row.params
    return bool(params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty)


def _edit(logits: torch.Tensor, rows: Sequence[Row], edited: Sequence[int]) -> None:
    """Bias, then minimum length, then penalties, in place: vLLM's order."""
    vocab_size = logits.shape[1]
    biased = [
        (at, token, bias) for at in edited for token, bias in rows[at].params.logit_bias if token < vocab_size
    ]
    if biased:
        at, token, bias = (_column(logits, values) for values in zip(*biased, strict=True))
        logits.index_put_((at, token), bias.float(), accumulate=True)
    stops = [
        (at, token)
        for at in edited
        if _too_short(rows[at])
        for token in rows[at].params.stop_token_ids
        if token < vocab_size
    ]
    if stops:
        at, token = (_column(logits, values) for values in zip(*stops, strict=True))
        logits[at, token] = float("-inf")
    penalised = [at for at in edited if _has_penalty(rows[at])]
    if penalised:
        _penalise(logits, rows, penalised)


def _penalise(logits: torch.Tensor, rows: Sequence[Row], penalised: Sequence[int]) -> None:
    """Repetition counts the whole sequence, presence and frequency the output only."""
    entries = []
    for at in penalised:
        params, known = rows[at].params, np.asarray(rows[at].token_ids)
        tokens, first = np.unique(known, return_inverse=True)
        counts = np.bincount(first[rows[at].num_prompt_tokens :], minlength=len(tokens))
        loss = params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        factor = np.full(len(tokens), params.repetition_penalty)
        named = tokens < logits.shape[1]  # some models read tokens that they can't write
        entries.append((np.full(named.sum(), at), tokens[named], factor[named], loss[named]))
    at, token, factor, loss = (
        _column(logits, np.concatenate(values)) for values in zip(*entries, strict=True)
    )
    old = logits[at, token]
    new = torch.where(old > 0, old / factor, old * factor) - loss
    logits[at, token] = new.clamp_max(MOST).float()


def _draw_random(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Inverse of the cumulative distribution, in vocabulary order, at one uniform number a row."""
    params = [row.params for row in rows]
    logits = logits / _column(logits, [p.temperature for p in params]).float()[:, None]
    probs = torch.softmax(logits, -1)
    if any(p.min_p > 0 for p in params):
        floor = _column(logits, [p.min_p for p in params]).float()[:, None] * probs.amax(-1, keepdim=True)
        probs = probs.masked_fill(probs < floor, 0)
    cut = [at for at, p in enumerate(params) if p.top_k > 0 or p.top_p < 1]
    if cut:
        probs[cut] = _keep_top(probs[cut], [params[at] for at in cut])
    total = probs.double().cumsum(-1)
    point = _column(logits, [uniform(row.seed, len(row.token_ids)) for row in rows])[:, None] * total[:, -1:]
    return torch.searchsorted(total, point, right=True)[:, 0].clamp_max_(logits.shape[1] - 1)


def _keep_top(probs: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Zeroes what is outside the top k, and outside the smallest set that holds top_p of the rest."""
    vocab_size = probs.shape[1]
    top_k = _column(probs, [p.top_k if p.top_k > 0 else vocab_size for p in params])[:, None]
    top_p = _column(probs, [p.top_p for p in params]).float()[:, None]
    kept, certain = _keep_among(probs, top_k, top_p, min(FEW, vocab_size))
    unsure = (~certain).nonzero()[:, 0]
    if unsure.numel():
        kept[unsure], _ = _keep_among(probs[unsure], top_k[unsure], top_p[unsure], vocab_size)
    return kept


def _keep_among(
    probs: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_keep_top` looking at the `width` likeliest tokens only, and [rows] whether that was enough.

    Sorting a whole vocabulary takes longer than the model's forward pass.
    """
    ordered, tokens = probs.topk(width)
    rank = torch.arange(width, device=probs.device)
    ordered = ordered.masked_fill(rank >= top_k, 0)
    unlimited = top_k >= probs.shape[1]
    wanted = top_p * torch.where(unlimited, probs.sum(-1, keepdim=True), ordered.sum(-1, keepdim=True))
    outside = (ordered.cumsum(-1) - ordered >= wanted) & (rank > 0) & (top_p < 1)
    kept = torch.zeros_like(probs).scatter_(1, tokens, ordered.masked_fill(outside, 0))
    enough = (top_k <= width) | (unlimited & (ordered.sum(-1, keepdim=True) >= wanted))
    return kept, enough[:, 0]


def uniform(seed: str, position: int) -> float:
    """A number in [0, 1) that is the same wherever and whenever this position is drawn."""
    digest = blake2b(f"{seed}:{position}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


def _column(like: torch.Tensor, values: Sequence[float] | np.ndarray) -> torch.Tensor:
    """One number a row: int64 or float64, on the device of `like`."""
    return torch.from_numpy(np.asarray(values)).to(like.device)
