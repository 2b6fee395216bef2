"""Group commit: the results that come in while one transaction is being synced share the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from brim.batch_api import store
from brim.batch_api.database import Database
from brim.batch_api.files import Fault
from brim.batch_api.lines import LineRecord

log = logging.getLogger("brim")

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0


class ResultWriter:
    """Owns the results that are not on disk yet. `recorded` counts lines by state since the start."""

    def __init__(self, db: Database, fault: Fault) -> None:
        self.recorded: Counter[str] = Counter()
        self._db = db
        self._fault = fault
        self._waiting: list[tuple[LineRecord, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()

    async def record(self, record: LineRecord) -> None:
        """Returns when the result is durable, or another result of the same line was before."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self._wake.set()
        await done

    async def run(self) -> None:
        """Commits until cancelled. While the disk refuses, results are kept and tried again."""
        delay = FIRST_RETRY_SECONDS
        while True:
            await self._wake.wait()
            try:
                await self.flush()
                delay = FIRST_RETRY_SECONDS
            except Exception:
                log.exception("batch results could not be stored; trying again in %.1f s", delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS)

    async def flush(self) -> None:
        """Commits all results that wait. Raises sqlite3.Error, then they still wait."""
        self._wake.clear()
        if not self._waiting:
            return
        group, self._waiting = self._waiting, []
        try:
            first = await self._db.run(store.record_lines, [record for record, _ in group])
        except BaseException:
            self._waiting[:0] = group
            self._wake.set()
            raise
        self._fault("lines.recorded")
        self.recorded.update(record.state for record in first)
        for _, done in group:
            if not done.done():
                done.set_result(None)
