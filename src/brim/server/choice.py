"""One answer under way: tokens go in, text comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from brim.core.errors import EngineDead, RequestRefused
from brim.core.plan import TokenLogprobs
from brim.core.request import FinishReason, SamplingParams
from brim.engines.base import TextStream
from brim.engines.loop import Delta, TokenStream
from brim.server.failures import ShutDown
from brim.server.stops import StopStrings
from brim.wire.errors import ApiError


class Piece(NamedTuple):
    """What one choice gained: text, the log probabilities of its tokens, at the end the reason."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: str | None


class Choice:
    """Turns the deltas of one request into pieces of text.

    Tokens after a stop string are neither shown nor counted; the token that ended the answer is
    counted, but not shown.
    """

    def __init__(
        self,
        index: int,
        stream: TokenStream,
        text: TextStream,
        sampling: SamplingParams,
        stops: Sequence[str] = (),
        opening: str = "",
    ) -> None:
        """The text begins with `opening` and ends before a stop string that comes after `min_tokens`."""
        self.index = index
        self.stream = stream
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.finish_reason: str | None = None
        self.failure: Exception | None = None
        self._text = text
        self._end_tokens = sampling.stop_token_ids
        self._min_tokens = sampling.min_tokens
        self._stops = StopStrings(stops) if stops else None
        self._opening = opening

    def take(self, delta: Delta) -> Piece:
        """The piece this delta adds; `failure` is set where the engine gave the request up with it."""
        reason = delta.finish_reason
        self.num_cached_tokens = delta.num_cached_tokens
        shown = delta.token_ids
        if reason is FinishReason.STOP and shown and shown[-1] in self._end_tokens:
            shown = shown[:-1]
        text, self._opening = self._opening, ""
        for position, token_id in enumerate(shown, 1):
            text += self._push(token_id)
            if self._stops is not None and self._stops.found:
                self.finish_reason = FinishReason.STOP.value
                return Piece(self.index, text, delta.logprobs[:position], self.finish_reason)
        if reason is not None:
            self.num_tokens += len(delta.token_ids) - len(shown)
            text += self._flush()
            self.finish_reason = reason.value
            self.failure = _failure(reason, delta.message)
        shown_reason = None if self.failure else self.finish_reason
        return Piece(self.index, text, delta.logprobs[: len(shown)], shown_reason)

    def _push(self, token_id: int) -> str:
        self.num_tokens += 1
        text = self._text.push(token_id)
        if self._stops is None or self.num_tokens <= self._min_tokens:
            return text
        return self._stops.push(text)

    def _flush(self) -> str:
        rest = self._text.flush()
        return rest if self._stops is None else self._stops.push(rest) + self._stops.flush()


def _failure(reason: FinishReason, message: str | None) -> Exception | None:
    """What a client is told of an end that is not the answer's own."""
    if reason is FinishReason.REFUSED:
        return RequestRefused(message or "The request can never run here.")
    if reason is FinishReason.ABORT:
        return ShutDown("The server was shut down before the answer was complete.")
    if reason is FinishReason.ERROR and message is None:
        return EngineDead("the engine died before the answer was complete")
    if reason is FinishReason.ERROR:  # the message is an exception's: the log has it
        return ApiError(500, "The engine failed on this request; see the server's log.", type="server_error")
    return None
