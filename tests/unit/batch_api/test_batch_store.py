"""The transactions of the store, one by one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from brim.batch_api import store
from brim.batch_api.database import Database
from brim.batch_api.lines import LineRecord
from brim.batch_api.rows import FileRow, NewBatch
from brim.batch_api.validation import InputLine
from brim.core.errors import ConfigError

NOW = 1_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    db = Database(tmp_path / "batches.sqlite3")
    db.open()
    db.call(store.add_file, FileRow("file-1", "", "in.jsonl", "batch", 9, NOW, None))
    db.call(
        store.create_batch,
        NewBatch("batch_1", "", "/v1/completions", "file-1", "1h", "null", 60, None, "", NOW, NOW + 3_600),
    )
    yield db
    db.close()


def begin(db: Database, lines: int, now: int = NOW) -> None:
    where = [InputLine(number, f"line-{number}", 0, 0) for number in range(1, lines + 1)]
    db.call(store.begin_batch, "batch_1", "m", where, now)


def record(number: int, state: str = "completed", answer: bytes = b"{}\n") -> LineRecord:
    return LineRecord("batch_1", number, state, answer, input_tokens=3, cached_tokens=1, output_tokens=2)


def test_the_first_result_of_a_line_wins(db: Database) -> None:
    begin(db, 2)
    first, second = record(1, answer=b"first"), record(1, "failed", b"second")
    assert db.call(store.record_lines, [first, second]) == [first]
    assert db.call(store.record_lines, [first, second]) == []
    batch = db.call(store.read_batch, "batch_1")
    assert (batch.completed, batch.failed, batch.input_tokens, batch.output_tokens) == (1, 0, 3, 2)
    assert db.call(store.ended_lines, "batch_1", "completed", 0, 9) == [(1, "line-1", b"first")]
    assert [line.line_number for line in db.call(store.pending_lines, "batch_1", 0, 9)] == [2]


def test_what_is_left_is_told_in_the_order_in_which_jobs_expire(db: Database) -> None:
    for number, seconds in ((2, 7_200), (3, 60), (4, 30)):
        name = f"batch_{number}"
        new = NewBatch(name, "", "/v1/completions", "file-1", "1h", "null", 60, None, "", NOW, NOW + seconds)
        db.call(store.create_batch, new)
        if number < 4:  # the last one is still being checked
            where = [InputLine(line, f"line-{line}", 0, 0) for line in range(number)]
            db.call(store.begin_batch, name, "m", where, NOW)
    begin(db, 6)
    db.call(store.record_lines, [record(1), record(2, "failed")])
    assert list(db.call(store.lines_left).items()) == [("batch_3", 3), ("batch_1", 4), ("batch_2", 2)]


def marked(db: Database) -> list[int]:
    return db.call(
        lambda connection: [
            row["line_number"] for row in connection.execute("SELECT line_number FROM lines WHERE in_flight")
        ]
    )


def ends(db: Database) -> dict[int, int]:
    return {line.line_number: line.unclean_ends for line in db.call(store.pending_lines, "batch_1", 0, 9)}


def test_an_unclean_end_counts_for_the_lines_that_were_in_flight_then(db: Database) -> None:
    begin(db, 4)
    db.call(store.mark_in_flight, "batch_1", [1, 2, 3])
    db.call(store.record_lines, [record(2)])
    assert marked(db) == [1, 3]
    assert db.call(store.count_unclean_end) == 2
    assert db.call(store.count_unclean_end) == 0
    assert ends(db) == {1: 1, 3: 1, 4: 0}
    db.call(store.mark_in_flight, "batch_1", [3, 4])
    db.call(store.clear_in_flight)
    db.call(store.mark_in_flight, "batch_1", [2, 3])
    assert marked(db) == [3], "a line that has its result is not in flight"
    assert db.call(store.count_unclean_end) == 1
    assert ends(db) == {1: 1, 3: 2, 4: 0}
    db.call(store.mark_in_flight, "batch_1", [1])
    db.call(store.cancel_batch, "", "batch_1", NOW)
    assert marked(db) == []


def test_the_lines_in_flight_are_found_without_a_look_at_all_others(db: Database) -> None:
    plan = db.call(
        lambda connection: connection.execute(
            "EXPLAIN QUERY PLAN UPDATE lines SET in_flight = 0 WHERE in_flight"
        ).fetchone()["detail"]
    )
    assert "lines_in_flight" in plan


def test_a_store_of_the_format_before_is_taken_over(db: Database, tmp_path: Path) -> None:
    begin(db, 2)
    db.call(store.record_lines, [record(1)])
    before = db.call(store.read_batch, "batch_1")
    db.close()
    path = tmp_path / "batches.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(
            """DROP INDEX lines_in_flight; ALTER TABLE lines DROP COLUMN in_flight;
            ALTER TABLE lines DROP COLUMN unclean_ends; PRAGMA user_version = 1;"""
        )
    for _ in range(2):
        again = Database(path)
        again.open()
        assert again.call(store.read_batch, "batch_1") == before
        assert ends(again) == {2: 0}
        again.call(store.mark_in_flight, "batch_1", [2])
        again.call(store.clear_in_flight)
        again.close()


def test_a_late_job_that_is_still_being_checked_expires(db: Database) -> None:
    assert db.call(store.expire_batches, NOW + 3_599) == {}
    assert db.call(store.expire_batches, NOW + 3_600) == {"batch_1": 0}
    begin(db, 1, NOW + 3_600)
    batch = db.call(store.read_batch, "batch_1")
    assert (batch.status, batch.expired_at, batch.total) == ("expired", NOW + 3_600, 0)


def test_a_result_that_comes_after_the_cancel_changes_nothing(db: Database) -> None:
    begin(db, 2)
    db.call(store.cancel_batch, "", "batch_1", NOW)
    assert db.call(store.record_lines, [record(1)]) == []
    batch = db.call(store.read_batch, "batch_1")
    assert (batch.status, batch.completed, batch.failed, batch.cut_short) == (
        "cancelling",
        0,
        2,
        "batch_cancelled",
    )


def test_a_late_batch_with_nothing_left_to_run_is_completed(db: Database) -> None:
    begin(db, 1)
    db.call(store.record_lines, [record(1)])
    assert db.call(store.expire_batches, NOW + 3_600) == {"batch_1": 0}
    db.call(store.publish_batch, "batch_1", None, None, NOW + 3_600)
    assert db.call(store.read_batch, "batch_1").status == "completed"


def test_a_cancel_of_an_expired_batch_keeps_the_reason_of_its_lines(db: Database) -> None:
    begin(db, 1)
    db.call(store.expire_batches, NOW + 3_600)
    db.call(store.cancel_batch, "", "batch_1", NOW + 3_600)
    db.call(store.publish_batch, "batch_1", None, None, NOW + 3_600)
    batch = db.call(store.read_batch, "batch_1")
    assert (batch.status, batch.cut_short) == ("cancelled", "batch_expired")


def test_stamps_never_go_back_with_the_clock(db: Database) -> None:
    begin(db, 1, now=NOW + 5)
    db.call(store.record_lines, [record(1)])
    db.call(store.finish_batch, "batch_1", NOW - 86_400)
    db.call(store.publish_batch, "batch_1", None, None, NOW - 86_400)
    batch = db.call(store.read_batch, "batch_1")
    assert (batch.in_progress_at, batch.finalizing_at, batch.completed_at) == (NOW + 5, NOW + 5, NOW + 5)


def test_a_batch_with_lines_left_is_not_finished_and_an_ended_one_stays(db: Database) -> None:
    begin(db, 1)
    db.call(store.finish_batch, "batch_1", NOW)
    assert db.call(store.read_batch, "batch_1").status == "in_progress"
    db.call(store.cancel_batch, "", "batch_1", NOW)
    db.call(store.publish_batch, "batch_1", None, None, NOW)
    ended = db.call(store.read_batch, "batch_1")
    begin(db, 1)
    db.call(store.fail_batch, "batch_1", [], NOW)
    db.call(store.publish_batch, "batch_1", None, None, NOW)
    assert db.call(store.read_batch, "batch_1") == ended


def test_a_transaction_that_fails_leaves_nothing(db: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM files")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        db.call(half)
    assert db.call(store.file_ids) == {"file-1"}


def test_what_was_committed_is_there_after_reopening(db: Database, tmp_path: Path) -> None:
    begin(db, 1)
    before = db.call(store.read_batch, "batch_1")
    db.close()
    again = Database(tmp_path / "batches.sqlite3")
    again.open()
    assert again.call(store.read_batch, "batch_1") == before
    assert again.call(store.open_batches) == ["batch_1"]
    again.close()


def test_a_store_is_opened_without_a_write_so_that_a_full_disk_is_no_reason_not_to_start(
    db: Database, tmp_path: Path
) -> None:
    db.close()
    (path,) = tmp_path.glob("*.sqlite3")
    before = path.read_bytes()
    again = Database(path)
    again.open()
    try:
        assert path.read_bytes() == before
        assert not any(log.stat().st_size for log in tmp_path.glob("*-wal"))
        with pytest.raises(ConfigError, match="in use by another server"):
            Database(path).open()
    finally:
        again.close()


def test_a_store_of_another_format_or_a_damaged_one_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "batches.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    newer = Database(path)
    with pytest.raises(ConfigError, match="format 99"):
        newer.open()
    newer.close()
    path.write_bytes(b"no database " * 100)
    damaged = Database(path)
    with pytest.raises(ConfigError, match="can't be opened"):
        damaged.open()
    damaged.close()
