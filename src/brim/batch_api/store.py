"""The transactions of the batch API. Each function is one, run by `Database`; times are Unix seconds.

A line leaves `pending` once, so the first result wins. Refusals meant for the client are ApiErrors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, astuple
from typing import Any

import orjson

from brim.batch_api.lines import LineRecord
from brim.batch_api.rows import MOVES, TERMINAL, BatchRow, FileRow, NewBatch, Page, PendingLine, columns
from brim.batch_api.validation import InputLine, Problem
from brim.wire.errors import ApiError

_FILE_COLUMNS = columns(FileRow)
_BATCH_COLUMNS = columns(BatchRow)
_OPEN = f"status NOT IN {TERMINAL}"


def _insert(db: sqlite3.Connection, table: str, row: FileRow | NewBatch) -> None:
    values = astuple(row)
    db.execute(f"INSERT INTO {table} ({columns(type(row))}) VALUES ({', '.join('?' * len(values))})", values)


def _page(
    db: sqlite3.Connection, table: str, names: str, where: dict[str, str], page: Page
) -> tuple[list[sqlite3.Row], bool]:
    """Rows in order of creation, and whether there are more."""
    conditions = [f"{name} = ?" for name in where]
    values: list[Any] = [*where.values()]
    if page.after is not None:
        cursor = db.execute(
            f"SELECT seq FROM {table} WHERE {' AND '.join(conditions)} AND id = ?", (*values, page.after)
        )
        if (found := cursor.fetchone()) is None:
            message = f"No object with the id {page.after!r} is in this list; begin again without 'after'."
            raise ApiError(400, message, param="after", code="invalid_value")
        conditions.append("seq < ?" if page.newest_first else "seq > ?")
        values.append(found["seq"])
    order = "DESC" if page.newest_first else "ASC"
    query = f"SELECT {names} FROM {table} WHERE {' AND '.join(conditions)} ORDER BY seq {order} LIMIT ?"
    rows = db.execute(query, (*values, page.limit + 1)).fetchall()
    return rows[: page.limit], len(rows) > page.limit


# --- files


def add_file(db: sqlite3.Connection, row: FileRow) -> None:
    _insert(db, "files", row)


def find_file(db: sqlite3.Connection, tenant: str, file_id: str) -> FileRow:
    """Raises ApiError 404."""
    query = f"SELECT {_FILE_COLUMNS} FROM files WHERE id = ? AND tenant = ?"
    found = db.execute(query, (file_id, tenant)).fetchone()
    if found is None:
        raise ApiError(404, f"No such File object: {file_id}", param="id")
    return FileRow(*found)


def list_files(
    db: sqlite3.Connection, tenant: str, purpose: str | None, page: Page
) -> tuple[list[FileRow], bool]:
    where = {"tenant": tenant} if purpose is None else {"tenant": tenant, "purpose": purpose}
    rows, has_more = _page(db, "files", _FILE_COLUMNS, where, page)
    return [FileRow(*row) for row in rows], has_more


def delete_file(db: sqlite3.Connection, tenant: str, file_id: str) -> None:
    """Raises as `check_deletable` does."""
    check_deletable(db, tenant, file_id)
    db.execute("DELETE FROM files WHERE id = ?", (file_id,))


def check_deletable(db: sqlite3.Connection, tenant: str, file_id: str) -> None:
    """Raises ApiError 404, or 400 while a batch job still reads the file."""
    find_file(db, tenant, file_id)
    reader = db.execute(f"SELECT id FROM batches WHERE input_file_id = ? AND {_OPEN}", (file_id,)).fetchone()
    if reader is not None:
        message = f"The file is the input of {reader['id']}, which is still running; cancel that batch first."
        raise ApiError(400, message, param="id", code="file_in_use")


def expired_files(db: sqlite3.Connection, now: int) -> list[str]:
    """The ids of the files whose time is over; the input of a running job stays until the job has ended."""
    query = f"""SELECT id FROM files WHERE expires_at <= ?
                AND id NOT IN (SELECT input_file_id FROM batches WHERE {_OPEN})"""
    return [row["id"] for row in db.execute(query, (now,))]


def forget_files(db: sqlite3.Connection, file_ids: Iterable[str]) -> None:
    db.executemany("DELETE FROM files WHERE id = ?", ((file_id,) for file_id in file_ids))


def file_ids(db: sqlite3.Connection) -> set[str]:
    return {row["id"] for row in db.execute("SELECT id FROM files")}


# --- batch jobs


def create_batch(db: sqlite3.Connection, new: NewBatch) -> BatchRow:
    """The new job, or the one made earlier by the same request with the same idempotency key.

    Raises ApiError 400 for a key that came with another request, and for a wrong input file.
    """
    query = f"SELECT {_BATCH_COLUMNS} FROM batches WHERE tenant = ? AND idempotency_key = ?"
    if (found := db.execute(query, (new.tenant, new.idempotency_key)).fetchone()) is not None:
        earlier = BatchRow(*found)
        if earlier.request_hash != new.request_hash:
            message = (
                "This Idempotency-Key came with another request before; use a new key for a new request."
            )
            raise ApiError(400, message, code="idempotency_key_reused")
        return earlier
    purpose = db.execute(
        "SELECT purpose FROM files WHERE id = ? AND tenant = ?", (new.input_file_id, new.tenant)
    ).fetchone()
    if purpose is None:
        message = f"No such File object: {new.input_file_id}; upload it to /v1/files first."
        raise ApiError(400, message, param="input_file_id", code="file_not_found")
    if purpose["purpose"] != "batch":
        message = (
            f"The input file has the purpose {purpose['purpose']!r}; upload it with the purpose 'batch'."
        )
        raise ApiError(400, message, param="input_file_id", code="invalid_value")
    _insert(db, "batches", new)
    return read_batch(db, new.id)


def read_batch(db: sqlite3.Connection, batch_id: str) -> BatchRow:
    query = f"SELECT {_BATCH_COLUMNS} FROM batches WHERE id = ?"
    return BatchRow(*db.execute(query, (batch_id,)).fetchone())


def find_batch(db: sqlite3.Connection, tenant: str, batch_id: str) -> BatchRow:
    """Raises ApiError 404."""
    query = f"SELECT {_BATCH_COLUMNS} FROM batches WHERE id = ? AND tenant = ?"
    found = db.execute(query, (batch_id, tenant)).fetchone()
    if found is None:
        raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
    return BatchRow(*found)


def list_batches(db: sqlite3.Connection, tenant: str, page: Page) -> tuple[list[BatchRow], bool]:
    rows, has_more = _page(db, "batches", _BATCH_COLUMNS, {"tenant": tenant}, page)
    return [BatchRow(*row) for row in rows], has_more


def open_batches(db: sqlite3.Connection) -> list[str]:
    """The ids of the jobs that have not ended, oldest first."""
    return [row["id"] for row in db.execute(f"SELECT id FROM batches WHERE {_OPEN} ORDER BY seq")]


def lines_left(db: sqlite3.Connection) -> dict[str, int]:
    """Lines without a result, by job in progress, in the order in which the jobs take places."""
    query = """SELECT id, total - completed - failed FROM batches WHERE status = 'in_progress'
        ORDER BY expires_at, seq"""
    return dict(db.execute(query).fetchall())


def count_batches(db: sqlite3.Connection) -> dict[str, int]:
    counts = dict.fromkeys(MOVES, 0)
    counts.update(db.execute("SELECT status, count(*) FROM batches GROUP BY status").fetchall())
    return counts


def _move(db: sqlite3.Connection, batch: BatchRow, status: str, now: int) -> bool:
    """Takes the job to `status` if the diagram has that arrow. A stamp is never before an earlier one."""
    if status not in MOVES[batch.status]:
        return False
    stamp = max(now, batch.latest_stamp)
    db.execute(f"UPDATE batches SET status = ?, {status}_at = ? WHERE id = ?", (status, stamp, batch.id))
    return True


def _give_up_pending(db: sqlite3.Connection, batch_id: str, code: str) -> int:
    """Fails the lines that have no result, so that none can come in any more; says how many."""
    query = "UPDATE lines SET state = 'failed', in_flight = 0 WHERE batch_id = ? AND state = 'pending'"
    lines = db.execute(query, (batch_id,)).rowcount
    if lines:
        db.execute(
            "UPDATE batches SET failed = failed + ?, cut_short = ? WHERE id = ?", (lines, code, batch_id)
        )
    return lines


def fail_batch(db: sqlite3.Connection, batch_id: str, problems: Iterable[Problem], now: int) -> None:
    """Ends validation with the list of what is wrong."""
    if _move(db, read_batch(db, batch_id), "failed", now):
        errors = orjson.dumps([asdict(problem) for problem in problems]).decode()
        db.execute("UPDATE batches SET errors = ? WHERE id = ?", (errors, batch_id))


def begin_batch(
    db: sqlite3.Connection, batch_id: str, model: str | None, lines: list[InputLine], now: int
) -> None:
    """Ends validation: all lines of the file are pending now."""
    if _move(db, read_batch(db, batch_id), "in_progress", now):
        db.execute("UPDATE batches SET model = ?, total = ? WHERE id = ?", (model, len(lines), batch_id))
        db.executemany(
            f"INSERT INTO lines (batch_id, {columns(InputLine)}) VALUES (?, ?, ?, ?, ?)",
            ((batch_id, *astuple(line)) for line in lines),
        )


def finish_batch(db: sqlite3.Connection, batch_id: str, now: int) -> None:
    """To finalizing, if every line has its result."""
    batch = read_batch(db, batch_id)
    if batch.completed + batch.failed == batch.total:
        _move(db, batch, "finalizing", now)


def expire_batches(db: sqlite3.Connection, now: int) -> dict[str, int]:
    """Decides, once, that jobs are late: their ids with the number of lines given up."""
    query = f"""SELECT {_BATCH_COLUMNS} FROM batches
                WHERE status IN ('validating', 'in_progress') AND expires_at <= ?"""
    late = [BatchRow(*row) for row in db.execute(query, (now,)).fetchall()]
    for batch in late:  # one that is still being checked has no lines, so no files to write
        _move(db, batch, "expired" if batch.status == "validating" else "finalizing", now)
    return {batch.id: _give_up_pending(db, batch.id, "batch_expired") for batch in late}


def cancel_batch(db: sqlite3.Connection, tenant: str, batch_id: str, now: int) -> tuple[BatchRow, bool]:
    """The job, now cancelling, and whether lines of it may still be running. Raises ApiError 404 or 400."""
    batch = find_batch(db, tenant, batch_id)
    if batch.status in TERMINAL:
        message = f"The batch has already ended: its status is {batch.status!r}, so it can't be cancelled."
        raise ApiError(400, message, param="batch_id", code="batch_already_ended")
    _move(db, batch, "cancelling", now)
    _give_up_pending(db, batch_id, "batch_cancelled")
    return read_batch(db, batch_id), batch.status in ("validating", "in_progress")


def publish_batch(
    db: sqlite3.Connection, batch_id: str, output: FileRow | None, errors: FileRow | None, now: int
) -> None:
    """Ends the job: its files become visible, its line rows go."""
    batch = read_batch(db, batch_id)
    ending = "expired" if batch.cut_short == "batch_expired" else "completed"
    if not _move(db, batch, "cancelled" if batch.status == "cancelling" else ending, now):
        return
    for row in (output, errors):
        if row is not None:
            add_file(db, row)
    ids = (output and output.id, errors and errors.id)
    db.execute("UPDATE batches SET output_file_id = ?, error_file_id = ? WHERE id = ?", (*ids, batch_id))
    db.execute("DELETE FROM lines WHERE batch_id = ?", (batch_id,))


# --- lines


def pending_lines(db: sqlite3.Connection, batch_id: str, after: int, limit: int) -> list[PendingLine]:
    """The next lines without a result behind line `after`, in file order."""
    query = f"""SELECT {columns(PendingLine)} FROM lines
                WHERE batch_id = ? AND line_number > ? AND state = 'pending' ORDER BY line_number LIMIT ?"""
    return [PendingLine(*row) for row in db.execute(query, (batch_id, after, limit)).fetchall()]


def mark_in_flight(db: sqlite3.Connection, batch_id: str, line_numbers: Iterable[int]) -> None:
    query = "UPDATE lines SET in_flight = 1 WHERE batch_id = ? AND line_number = ? AND state = 'pending'"
    db.executemany(query, ((batch_id, number) for number in line_numbers))


def clear_in_flight(db: sqlite3.Connection) -> None:
    db.execute("UPDATE lines SET in_flight = 0 WHERE in_flight")


def count_unclean_end(db: sqlite3.Connection) -> int:
    """Counts one for every line that is still marked, and takes the marks away; says how many those were."""
    query = "UPDATE lines SET in_flight = 0, unclean_ends = unclean_ends + 1 WHERE in_flight"
    return db.execute(query).rowcount


def record_lines(db: sqlite3.Connection, records: list[LineRecord]) -> list[LineRecord]:
    """Stores results; returns those that were the first of their line. The others change nothing."""
    return [record for record in records if _record_line(db, record)]


def _record_line(db: sqlite3.Connection, record: LineRecord) -> bool:
    first = db.execute(
        """UPDATE lines SET state = ?, answer = ?, in_flight = 0
           WHERE batch_id = ? AND line_number = ? AND state = 'pending'""",
        (record.state, record.answer, record.batch_id, record.line_number),
    ).rowcount
    if first:
        db.execute(
            f"""UPDATE batches SET {record.state} = {record.state} + 1, input_tokens = input_tokens + ?,
                cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ? WHERE id = ?""",
            (record.input_tokens, record.cached_tokens, record.output_tokens, record.batch_id),
        )
    return bool(first)


def ended_lines(
    db: sqlite3.Connection, batch_id: str, state: str, after: int, limit: int
) -> list[tuple[int, str, bytes | None]]:
    """(line number, custom_id, answer) of the next lines in that state; a line given up has no answer."""
    query = """SELECT line_number, custom_id, answer FROM lines
               WHERE batch_id = ? AND line_number > ? AND state = ? ORDER BY line_number LIMIT ?"""
    return [tuple(row) for row in db.execute(query, (batch_id, after, state, limit)).fetchall()]
