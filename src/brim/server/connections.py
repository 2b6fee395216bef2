"""How large a request's head may be, and how long its bytes may take: uvicorn limits neither."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Proxies stop at 8 to 32 KiB. What comes in one piece with a head's beginning (256 KiB) is not counted.
MAX_HEAD_BYTES = 65_536
SILENCE_SECONDS = 60.0


class Connection(HttpToolsProtocol):
    """One HTTP connection.

    A head, or trailers, of more than `MAX_HEAD_BYTES` are a 400, before any key is looked at. A client that
    owes the rest of a request, or its first one, is dropped once it has sent nothing of it for
    `SILENCE_SECONDS`, or up to twice that. A part of a head is nothing: it may not trickle in for ever.
    So is one whose connection is to be closed, but who takes none of the bytes that are left for it.
    Between two requests uvicorn's keep-alive timer decides, until the first byte of the next one.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = False
        self._untaken_bytes = -1  # not closed yet
        self._advance()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def _advance(self) -> None:
        self._head_bytes = 0
        self._advanced_at = self.loop.time()

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(SILENCE_SECONDS, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            self._look_at_rest()
        elif not self._client_is_due():
            self._advanced_at = self.loop.time()
        elif self.loop.time() - self._advanced_at >= SILENCE_SECONDS:
            self.transport.close()
        self._look_later()

    def _look_at_rest(self) -> None:
        """A closed transport waits for ever until its last bytes are taken."""
        before, self._untaken_bytes = self._untaken_bytes, self.transport.get_write_buffer_size()
        if self._untaken_bytes == before:
            self.transport.abort()

    def _client_is_due(self) -> bool:
        cycle = self.cycle
        if cycle is None:
            return True
        if cycle.response_complete:  # any byte stops the timer, also a blank line that begins no head
            return self._in_head or self.timeout_keep_alive_task is None
        return bool(cycle.more_body and not self.flow.read_paused)

    # what shows that a request goes on

    def on_message_begin(self) -> None:
        self._in_head = True
        self._advance()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._advance()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._advance()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._advance()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._advance()
        super().on_response_complete()
