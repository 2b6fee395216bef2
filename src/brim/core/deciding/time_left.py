"""What of a step's time is left to offline requests, while the step is put together."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from brim.core.estimators.chunk_size import Predict, largest_chunk, with_chunk, with_decodes
from brim.core.estimators.step_time import StepShape


class TimeLeft:
    """`shape` is the step so far. It may take `limit_ns`; None: as long as it wants.

    Where it is empty and has no time for one token, it has room for `least_tokens` all the same: a target
    that nobody could meet must not keep the machine idle. `known_tokens` is the largest step whose time can
    be predicted; None: any. Where there is a limit, chunks stop there, but `least_tokens` of them may go
    beyond.
    """

    def __init__(
        self,
        predict: Predict,
        online: StepShape,
        limit_ns: int | None,
        least_tokens: int,
        known_tokens: int | None = None,
    ) -> None:
        self.shape = online
        self._refused_from = sys.maxsize  # not even the token at that place of a prompt fits any more
        self._known_tokens = known_tokens
        self._in_chunks = 0
        self._predict = predict
        self._online = online
        self._limit_ns = limit_ns
        self._least_tokens = least_tokens

    @property
    def offline_part(self) -> StepShape:
        """What was added."""
        return StepShape(*(now - before for now, before in zip(self.shape, self._online, strict=True)))

    def chunk(self, start: int, most: int) -> int:
        """The most tokens from `start` on that the step has time for."""
        if self._limit_ns is None:
            return most
        fits = largest_chunk(self._predict, self.shape, start, most, self._limit_ns)
        if self._known_tokens is not None:
            least = self._least_tokens - self._in_chunks
            fits = max(min(fits, max(self._known_tokens - self.shape.new_tokens, least)), 0)
        if fits < 1 and not self.shape.new_tokens:
            fits = min(most, self._least_tokens)
        if fits < 1 <= most:
            self._refused_from = min(start, self._refused_from)
        return fits

    def refuses(self, start: int) -> bool:
        """Whether it is known that there is no time for the token at `start`."""
        return start >= self._refused_from

    def add_chunk(self, start: int, num_tokens: int) -> None:
        self._in_chunks += num_tokens
        self.shape = with_chunk(self.shape, num_tokens, start)

    def add_all(self, num_decodes: int, context: int) -> bool:
        """Adds the decodes, which attend to `context` tokens together, if there is time for all of them."""
        whole = with_decodes(self.shape, num_decodes, context)
        if num_decodes and self._limit_ns is not None and self._predict(whole) > self._limit_ns:
            return False
        self.shape = whole
        return True

    def add_last(self, contexts: Sequence[int]) -> int:
        """Adds as many of the decodes as there is time for, the last first; returns how many not."""
        left_out, context = 0, sum(contexts)
        while left_out < len(contexts) and not self.add_all(len(contexts) - left_out, context):
            context -= contexts[left_out]
            left_out += 1
        if left_out == len(contexts) and not self.shape.new_tokens:
            least = contexts[-self._least_tokens :]
            left_out -= len(least)
            self.shape = with_decodes(self.shape, len(least), sum(least))
        return left_out
