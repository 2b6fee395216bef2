"""The door of this room: `BatchApi`, which any host mounts by giving it a folder and a `submit`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request

from brim.batch_api import store
from brim.batch_api.backlog import Backlog
from brim.batch_api.database import Database
from brim.batch_api.files import Fault, FileFolder
from brim.batch_api.jobs import InputRules, Jobs
from brim.batch_api.lines import BatchLine, HostStopped, LineResult, Submit
from brim.batch_api.routes import BatchRoute, BatchRoutes, FileRoutes

__all__ = ["Backlog", "BatchApi", "BatchLine", "HostStopped", "LineCounts", "LineResult", "Limits", "Submit"]


STORE = "batches.sqlite3"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may hold. The defaults are OpenAI's, except the line's, which is ours."""

    file_bytes: int = 512 << 20
    batch_file_bytes: int = 200 << 20
    line_bytes: int = 8 << 20
    lines: int = 50_000


@dataclass(frozen=True, slots=True)
class LineCounts:
    """Lines since the start, by how they ended, and those the host is running now."""

    completed: int
    failed: int
    expired: int
    in_flight: int


def check_folder(data_folder: Path) -> None:
    """Raises ConfigError where a `BatchApi` could not open the folder now. Blocks."""
    db = Database(data_folder / STORE)
    try:
        db.open()
    finally:
        db.close()


def _one_tenant(request: Request) -> str:
    return ""


def _pass(point: str) -> None:
    """No fault."""


class BatchApi:
    """OpenAI's Files and Batches over one data folder.

    `submit` runs one line and returns the answer. It is cancelled when the line's batch is cancelled or
    expires and when the API stops. What it raises becomes the line's error, except `EngineDead`: then
    the line stays pending and is tried again. A line may be submitted again after a crash; the first
    answer that is stored counts. A crash counts against the lines that were with `submit` or read ahead, and
    so does an `EngineDead` of any of them that is no `HostStopped`. After an `EngineDead` each line that is
    still with `submit` is waited for: it has to end too, and says itself which of the two it met.

    `models` tells the model names in service, None accepts any. At most `window` lines are with
    `submit` at a time, lines of the batch that expires first in front. `tenant` says whose files and
    batches a request sees. `clock` gives wall time in Unix seconds, `elapsed_ns` a time that never jumps;
    every `tick_seconds` late batches are ended, expired files removed, and the forecasts made anew.
    Who downloads a file and takes nothing for `write_timeout_seconds` is dropped.
    `fault` is told each durable step by name.
    """

    def __init__(
        self,
        data_folder: Path,
        submit: Submit,
        *,
        endpoints: Sequence[str] = ("/v1/chat/completions", "/v1/completions"),
        models: Callable[[], Collection[str]] | None = None,
        window: int = 512,
        limits: Limits | None = None,
        tenant: Callable[[Request], str] = _one_tenant,
        clock: Callable[[], float] = time.time,
        elapsed_ns: Callable[[], int] = time.monotonic_ns,
        tick_seconds: float = 1.0,
        write_timeout_seconds: float = 60.0,
        fault: Fault = _pass,
    ) -> None:
        limits = limits or Limits()

        def now() -> int:
            return int(clock())

        self._db = Database(data_folder / STORE)
        self._folder = FileFolder(data_folder / "files", fault)
        self._jobs = Jobs(
            self._db,
            self._folder,
            submit,
            InputRules(models, limits.lines, limits.line_bytes),
            window=window,
            now=now,
            elapsed_ns=elapsed_ns,
            tick_seconds=tick_seconds,
            fault=fault,
        )
        self.router = APIRouter(route_class=BatchRoute)
        sizes = limits.file_bytes, limits.batch_file_bytes
        files = FileRoutes(self._db, self._folder, tenant, now, *sizes, write_timeout_seconds)
        files.add_to(self.router)
        BatchRoutes(self._db, self._jobs, tenant, now, endpoints).add_to(self.router)

    async def start(self) -> None:
        """Opens the folder, clears what a crash left, and takes up every batch that has not ended.

        Raises ConfigError if the folder can't be used or belongs to a server that is running.
        """
        try:
            await asyncio.to_thread(self._db.open)
            known = await self._db.run(store.file_ids)
            await asyncio.to_thread(self._folder.open, known)
            await self._jobs.start()
        except BaseException:
            await asyncio.to_thread(self._db.close)
            raise

    @property
    def running(self) -> bool:
        """From `start` to `stop`."""
        return self._db.is_open

    async def stop(self, hangs: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Stops running lines (they are pending again) and closes the folder. No result is lost.

        `hangs` is asked then: whether the host never lets go of them, which counts as a crash.
        """
        await self._jobs.stop(hangs)
        await asyncio.to_thread(self._db.close)

    async def tick(self) -> None:
        """Ends late batches and removes expired files now. Raises OSError or sqlite3.Error."""
        await self._jobs.tick()

    async def job_counts(self) -> dict[str, int]:
        """Batches by status, every status present."""
        return await self._db.run(store.count_batches)

    def backlog(self) -> Backlog:
        """What is left of the jobs in progress, at most `tick_seconds` ago."""
        return self._jobs.backlog.whole()

    def line_counts(self) -> LineCounts:
        recorded = self._jobs.results.recorded
        return LineCounts(
            completed=recorded["completed"],
            failed=recorded["failed"],
            expired=self._jobs.expired_lines,
            in_flight=self._jobs.window.held,
        )
