"""One SQLite file, one connection, one thread: all transactions of this room happen here, in order."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from brim.core.errors import ConfigError
from brim.wire.errors import draining

P = ParamSpec("P")
T = TypeVar("T")

_LOCK_WAIT_SECONDS = 1.0
_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS files_by_expiry ON files (expires_at);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    metadata TEXT NOT NULL,
    output_expires_seconds INTEGER NOT NULL,
    idempotency_key TEXT,
    request_hash TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'validating',
    model TEXT,
    errors TEXT,
    cut_short TEXT CHECK (cut_short IN ('batch_expired', 'batch_cancelled')),
    output_file_id TEXT,
    error_file_id TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, idempotency_key),
    CHECK (completed + failed <= total)
) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status);
CREATE INDEX IF NOT EXISTS batches_by_input ON batches (input_file_id);
CREATE TABLE IF NOT EXISTS lines (
    batch_id TEXT NOT NULL,
    line_number INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    byte_offset INTEGER NOT NULL,
    byte_length INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'completed', 'failed')),
    answer BLOB,
    in_flight INTEGER NOT NULL DEFAULT 0,
    unclean_ends INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (batch_id, line_number)
) STRICT;
CREATE INDEX IF NOT EXISTS lines_in_flight ON lines (batch_id) WHERE in_flight;
"""
_CHANGES = {
    0: _SCHEMA,
    1: """
ALTER TABLE lines ADD COLUMN in_flight INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lines ADD COLUMN unclean_ends INTEGER NOT NULL DEFAULT 0;
CREATE INDEX lines_in_flight ON lines (batch_id) WHERE in_flight;
""",
}
"""What makes a store of that version, 0 being an empty file, one of ours."""


class Database:
    """Runs functions of a connection, each as one transaction that is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="brim-batch-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    def open(self) -> None:
        """Blocks. Raises ConfigError if the file can't be used or another server has it open."""
        self._connection = self._thread.submit(_connect, self._path).result()

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def close(self) -> None:
        """Blocks until the transactions already asked for are done, and refuses later ones.

        May be called twice.
        """
        if not self._closed:
            self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`work(connection, ...)` as one transaction; blocks.

        Raises sqlite3.Error, what `work` raises, and ApiError 503 once the store is closed.
        """
        return self._submit(work, *args, **kwargs).result()

    async def run(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `call`, without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(work, *args, **kwargs))

    def _submit(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        try:
            return self._thread.submit(self._transaction, lambda db: work(db, *args, **kwargs))
        except RuntimeError:  # the thread takes nothing more
            raise draining() from None

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise draining()
        if self._connection is None:
            raise RuntimeError("the batch API is not running; call its start() first")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                self._connection.execute("ROLLBACK")
            raise
        return result


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_LOCK_WAIT_SECONDS, isolation_level=None)
    except (OSError, sqlite3.Error) as exc:
        raise ConfigError(f"The data folder {path.parent} can't be used: {exc}.") from exc
    connection.row_factory = sqlite3.Row
    try:
        _prepare(connection)
    except sqlite3.Error as exc:
        connection.close()
        if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            message = (
                f"The data folder {path.parent} is in use by another server; give this one its own folder."
            )
            raise ConfigError(message) from exc
        raise ConfigError(f"The batch store {path} can't be opened: {exc}.") from exc
    except ConfigError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # The lock is taken by the first transaction and kept until the connection closes or the process dies.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION and version not in _CHANGES:
        message = f"The batch store has format {version} and this Brim reads {_VERSION}; use another folder."
        raise ConfigError(message)
    # What is there already is not written again: a server must come up on a full disk too.
    changes = "" if version == _VERSION else f"{_CHANGES[version]} PRAGMA user_version = {_VERSION};"
    connection.executescript(f"BEGIN EXCLUSIVE; {changes} COMMIT;")
