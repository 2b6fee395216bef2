"""Runs the application under uvicorn: one process, one socket, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from brim.core.errors import ConfigError
from brim.server.connections import Connection
from brim.server.lifecycle import Lifecycle

FLUSH_SECONDS = 5  # after the drain, for the last bytes of the answers
BACKLOG = 2048


class Server(uvicorn.Server):
    """The first signal drains while requests are still answered (new ones with 503); the second one ends it.

    Signals are not raised again at the end: a server that drained exits with status 0.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._signals = 0
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._signals and self._drain is None:
            self._drain = asyncio.create_task(self._lifecycle.drain())
        drained = self._drain is not None and self._drain.done()
        return await super().on_tick(counter) or drained


def make_server(app: FastAPI, *, log_level: str = "info") -> Server:
    """A server for an application made by `create_app`; `run` or `serve` it with sockets of `listen`."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level=log_level,
        access_log=log_level in ("debug", "trace"),
        server_header=False,
        timeout_keep_alive=app.state.options.keep_alive_seconds,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    return Server(config, app.state.lifecycle)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError where that is impossible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"can't listen on {host}:{port} ({reason}): choose another host or port") from exc
