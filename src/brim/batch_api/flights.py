"""Which lines are with the host, also on disk: so that a line which ends the server is found afterwards.

Any line in flight at an unclean end may have caused it. Each time it was, it runs among fewer others, the
last two times alone. So only a line that the server twice did not survive alone is given up, and those beside
it are answered. The ends before those two count as well, whatever caused them.

In flight are also lines that are only read ahead: up to 31 of a job are marked together with the first, and
the host may not have seen them. One that was in flight at an unclean end is read and marked alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from brim.batch_api import store
from brim.batch_api.database import Database
from brim.batch_api.lines import BatchLine, HostStopped, LineResult, derived_id
from brim.batch_api.rows import PendingLine
from brim.core.errors import EngineDead
from brim.wire.errors import ApiError

log = logging.getLogger("brim")

_TOGETHER = (16, 1, 1)  # most lines in flight, itself included, after its first unclean end, its second, ...
MOST_ENDS = len(_TOGETHER) + 1


def together(line: PendingLine) -> int | None:
    """How many lines may be in flight while it is; None: as many as the window has."""
    return _TOGETHER[line.unclean_ends - 1] if 0 < line.unclean_ends < MOST_ENDS else None


def given_up(line: BatchLine, unclean_ends: int) -> LineResult:
    """The answer to a line that is not tried again."""
    message = f"The server ended unexpectedly {unclean_ends} times while this request ran; it is given up."
    error = ApiError(500, message, type="server_error", code="server_error")
    return LineResult(error.status, derived_id("req_", line.batch_id, line.line_number), error.body())


class Flights:
    """Owns the marks of lines in flight. Those that an earlier server left behind count as unclean ends.

    Until they are counted, no mark is made and none is taken away.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._counted = False
        self._gone = False
        self._died = False

    async def count_unclean_end(self) -> None:
        """At the start, and again until it succeeds. Raises sqlite3.Error."""
        if self._counted:
            return
        if lines := await self._db.run(store.count_unclean_end):
            log.warning("the server ended unexpectedly with up to %d batch lines in flight", lines)
        self._counted = True

    async def begin(self, batch_id: str, lines: Sequence[PendingLine]) -> None:
        """Before the host sees them. Raises sqlite3.Error."""
        # A host that runs nothing any more does no harm: what it is given now is not to blame.
        if self._counted and not self._gone and lines[0].unclean_ends < MOST_ENDS:
            await self._db.run(store.mark_in_flight, batch_id, [line.line_number for line in lines])

    def lose_host(self, exc: EngineDead) -> None:
        """It runs nothing more. Where it died, the process ends uncleanly, however orderly it stops."""
        self._gone = True
        self._died = self._died or not isinstance(exc, HostStopped)

    async def end(self) -> None:
        """At a stop: what is in flight now has done no harm. Raises sqlite3.Error."""
        if self._db.is_open and self._counted and not self._died:
            await self._db.run(store.clear_in_flight)
