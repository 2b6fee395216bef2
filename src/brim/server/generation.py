"""One answer under way: its choices, merged; its usage; its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from brim.core.request import FinishReason
from brim.engines.loop import Delta
from brim.server.answers import Form, Head, Usage
from brim.server.choice import Choice, Piece


class Generation:
    """A started answer. Whoever holds it must `complete()` it, read its `pieces()`, or `abort()` it."""

    def __init__(
        self, choices: Sequence[Choice], form: Form, head: Head, *, prompt_tokens: int, n: int
    ) -> None:
        """Every `n` of the choices share a prompt; `prompt_tokens` counts each prompt once."""
        self.form = form
        self._choices = choices
        self._first_choices = choices[::n]
        self._prompt_tokens = prompt_tokens
        self._head = head
        self._first: Piece | None = None
        self._rest = self._run()

    def head(self, object_name: str) -> Head:
        return {**self._head, "object": object_name}

    def usage(self) -> Usage:
        """Tokens so far. A prompt with several choices counts once, and so do its cached tokens."""
        completion_tokens = sum(choice.num_tokens for choice in self._choices)
        cached_tokens = sum(choice.num_cached_tokens for choice in self._first_choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

    def abort(self) -> None:
        """Drops what still runs; may be called at any time, any number of times."""
        for choice in self._choices:
            if choice.finish_reason is None:
                choice.stream.abort()

    async def wait_for_first_token(self, seconds: float) -> None:
        """Returns once a token has come. Raises TimeoutError, and drops the answer, when none comes."""
        async with asyncio.timeout(seconds):
            self._first = await anext(self._rest)

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """Everything the choices gain, in the order it comes. Raises a choice's failure."""
        return self._rest if self._first is None else self._with_first(self._first)

    async def complete(self) -> dict[str, Any]:
        """The whole answer, as the endpoint's object."""
        gained: list[list[Piece]] = [[] for _ in self._choices]
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                gained[piece.choice].append(piece)
        choices = [self.form.whole(_joined(parts)) for parts in gained]
        return {**self.head(self.form.whole_object), "choices": choices, "usage": self.usage()}

    async def _with_first(self, first: Piece) -> AsyncGenerator[Piece, None]:
        async with aclosing(self._rest) as rest:
            yield first
            async for piece in rest:
                yield piece

    async def _run(self) -> AsyncGenerator[Piece, None]:
        num_open = len(self._choices)
        try:
            async with aclosing(_merged(self._choices)) as deltas:
                async for choice, delta in deltas:
                    if choice.finish_reason is not None:
                        continue  # it met a stop string; this is its abort coming home
                    piece = choice.take(delta)
                    if piece.finish_reason is not None:
                        choice.stream.abort(FinishReason.STOP)  # the engine knows no stop strings
                        num_open -= 1
                    yield piece
                    if choice.failure is not None:
                        raise choice.failure
                    if not num_open:
                        return
        finally:
            self.abort()


def _joined(parts: Sequence[Piece]) -> Piece:
    text = "".join(part.text for part in parts)
    logprobs = tuple(token for part in parts for token in part.logprobs)
    return Piece(parts[-1].choice, text, logprobs, parts[-1].finish_reason)


def _merged(choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta], None]:
    return _only(choices[0]) if len(choices) == 1 else _interleaved(choices)


async def _only(choice: Choice) -> AsyncGenerator[tuple[Choice, Delta], None]:
    async for delta in choice.stream:
        yield choice, delta


async def _interleaved(choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta], None]:
    """The deltas of all choices as they come. The queue is short, so a slow reader's deltas grow instead."""
    arrived: asyncio.Queue[tuple[Choice, Delta | Exception]] = asyncio.Queue(maxsize=1)

    async def pump(choice: Choice) -> None:
        try:
            async for delta in choice.stream:
                await arrived.put((choice, delta))
        except Exception as exc:
            await arrived.put((choice, exc))

    pumps = [asyncio.create_task(pump(choice)) for choice in choices]
    try:
        while True:
            choice, delta = await arrived.get()
            if isinstance(delta, Exception):
                raise delta
            yield choice, delta
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
