"""Server-sent events in OpenAI's form, and what can go wrong with their reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from brim.server.choice import Piece
from brim.server.disconnects import left_within, run_unless
from brim.server.failures import told
from brim.server.generation import Generation
from brim.server.schemas import StreamOptions

log = logging.getLogger("brim")

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class ChunkWriter:
    """Writes the chunks of one answer. What all of them share is written once."""

    def __init__(self, generation: Generation, options: StreamOptions) -> None:
        self._generation = generation
        self._form = generation.form
        self._usage_last = options.include_usage
        self._usage_always = options.include_usage and options.continuous_usage_stats
        head = orjson.dumps(generation.head(self._form.chunk_object))
        self._start = b"data: " + head[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"
        before, after = self._form.text_chunk
        self._before_text, self._after_text = before, after + self._end
        self._opened: set[int] = set()

    def chunks(self, piece: Piece) -> bytes:
        """The events that tell this piece: none while a piece shows nothing, two where one opens a choice."""
        index, text, logprobs, finish_reason = piece
        if finish_reason is None and not logprobs:
            if not text and not self._usage_always:
                return b""
            if index in self._opened and not self._usage_always:
                number = b'{"index":%d' % index
                return b"".join(
                    (self._start, number, self._before_text, orjson.dumps(text), self._after_text)
                )
        return self._opening(index) + self._event(orjson.dumps(self._form.chunk(piece)))

    def last(self) -> bytes:
        """What follows the last chunk of an answer that is complete."""
        if not self._usage_last:
            return DONE
        return self._start + b'],"usage":' + orjson.dumps(self._generation.usage()) + b"}\n\n" + DONE

    def failure(self, exc: Exception) -> bytes:
        """What follows the last chunk of an answer that is not."""
        return b"data: " + orjson.dumps(told(exc).body()) + b"\n\n" + DONE

    def _opening(self, index: int) -> bytes:
        if index in self._opened:
            return b""
        self._opened.add(index)
        choice = self._form.opening(index)
        return b"" if choice is None else self._event(orjson.dumps(choice))

    def _event(self, choice: bytes) -> bytes:
        if not self._usage_always:
            return self._start + choice + self._end
        return self._start + choice + b'],"usage":' + orjson.dumps(self._generation.usage()) + b"}\n\n"


class EventStream(Response):
    """Streams one answer.

    Nothing is buffered here: while the reader takes nothing, tokens gather in the engine loop and come
    as one larger chunk. A reader that takes nothing for `write_timeout_seconds` is dropped, one that
    leaves ends the request; while no token comes, a comment is sent every `comment_seconds`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        options: StreamOptions,
        *,
        comment_seconds: float,
        write_timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]  # of the empty body that a plain response would have
        self._generation = generation
        self._writer = ChunkWriter(generation, options)
        self._comment_seconds = comment_seconds
        self._write_timeout_seconds = write_timeout_seconds
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()  # when the last write began
        self._writing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_unless(self._watch(receive, send), self._write(send))
        finally:
            self._generation.abort()

    async def _write(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._generation.pieces()) as pieces:
                async for piece in pieces:
                    if chunks := self._writer.chunks(piece):
                        await self._send(send, _body(chunks))
            end = self._writer.last()
        except Exception as exc:
            end = self._writer.failure(exc)
        await self._send(send, _body(end, more=False))

    async def _send(self, send: Send, message: Message) -> None:
        self._written_at = self._clock()
        self._writing = True
        await send(message)
        self._writing = False

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Returns when the stream should end before its answer does."""
        tick = min(self._comment_seconds, self._write_timeout_seconds) / 2
        while not await left_within(tick, receive):
            idle = self._clock() - self._written_at
            if self._writing:
                taken = idle < self._write_timeout_seconds
            else:
                taken = idle < self._comment_seconds or await self._keep_alive(send)
            if not taken:
                log.info("a reader took nothing for %g s: its stream is dropped", self._write_timeout_seconds)
                return

    async def _keep_alive(self, send: Send) -> bool:
        """False if even that can't be written in time."""
        self._written_at = self._clock()
        try:
            async with asyncio.timeout(self._write_timeout_seconds):
                await send(_body(KEEP_ALIVE))
        except TimeoutError:
            return False
        return True


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
