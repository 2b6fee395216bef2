"""StepPlan: what one step runs. StepResult: what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from brim.core.request import RequestState


class Chunk(NamedTuple):
    """A run of known tokens `[start, start + num_tokens)` of one request.

    `samples` is true when the chunk reaches the last known token: only then is a next token drawn.
    """

    state: RequestState
    start: int
    num_tokens: int
    samples: bool

    @classmethod
    def scheduled(cls, state: RequestState, num_tokens: int) -> Chunk:
        """The next `num_tokens` known tokens, or as many as are left: the cache may have held more."""
        start = state.num_scheduled_tokens
        num_tokens = min(num_tokens, state.num_tokens - start)
        state.schedule(num_tokens)
        return cls(state, start, num_tokens, samples=start + num_tokens == state.num_tokens)


class StepPlan(NamedTuple):
    """One forward pass.

    The step runs every request of `decodes` by exactly one token, and every chunk of `chunks`.
    `admitted` requests appear for the first time (or again, after a preemption); of the requests in
    `released` no further plan will speak, unless they are admitted anew. `decodes` is shared between
    the plans of a quiet stretch: read it, never change it.
    """

    step_id: int
    decodes: tuple[RequestState, ...]
    chunks: tuple[Chunk, ...] = ()
    admitted: tuple[RequestState, ...] = ()
    released: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.decodes) + sum(chunk.num_tokens for chunk in self.chunks)

    def __bool__(self) -> bool:
        """False when there is nothing to run."""
        return bool(self.decodes or self.chunks)

    def sampling(self) -> tuple[RequestState, ...]:
        """The requests that draw a token, in the order of `StepResult.token_ids`: the decodes first."""
        if not self.chunks:
            return self.decodes
        return (*self.decodes, *(chunk.state for chunk in self.chunks if chunk.samples))

    def rows(self) -> list[Chunk]:
        """Every row as a chunk, a decode being one of one token; call it before the next `schedule`."""
        decodes = [Chunk(state, state.num_scheduled_tokens - 1, 1, True) for state in self.decodes]
        return [*decodes, *self.chunks]

    def part(self, rows: Sequence[Chunk]) -> StepPlan:
        """The same step with only some of its `rows()`."""
        return self._replace(decodes=(), chunks=tuple(rows))


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one drawn token: its own, and the `top` (token id, logprob) pairs."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """`token_ids[i]` was drawn for `plan.sampling()[i]`.

    Requests in `errors` (id -> message) failed alone: their token, if any, means nothing.
    `logprobs` holds an entry for each request that asked for them and drew a token.
    """

    token_ids: Sequence[int]
    logprobs: Mapping[str, TokenLogprobs] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
