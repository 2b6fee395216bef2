"""How long an answer is expected to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from brim.core.estimators.response_length import ResponseLength, padded
from brim.core.request import Request, RequestView


class Expecting(Protocol):
    def output_tokens(self, view: RequestView) -> int:
        """Output tokens in all, more than it has now and at most its limit."""

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """A request has ended by itself after so many output tokens."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What `lengths` predicts, and `padding` of it more, rounded up to whole `bucket_tokens`."""

    lengths: ResponseLength
    padding: float
    bucket_tokens: int

    def output_tokens(self, view: RequestView) -> int:
        request, generated = view.request, view.num_tokens - view.num_prompt_tokens
        predicted = self.lengths.predict(request, generated)
        return padded(predicted, self.padding, self.bucket_tokens, generated, request.sampling.max_tokens)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        self.lengths.observe(request, num_output_tokens)
