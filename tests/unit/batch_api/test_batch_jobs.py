"""The life of batch jobs over a fake host and a fake clock."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brim.batch_api import results, store
from brim.batch_api.api import BatchApi, BatchLine, LineResult
from brim.batch_api.database import Database
from brim.batch_api.files import FileFolder
from brim.core.errors import ConfigError, EngineDead, RequestRefused
from tests.unit.batch_api.batch_harness import (
    Clock,
    HeldHost,
    answer_at_once,
    begin,
    check_ended,
    eventually,
    good_file,
    jsonl,
    names,
    reply,
    request_line,
    serving,
)


def test_a_batch_completes_with_all_its_numbers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (api, client):
            batch = await client.until(await begin(client, 300))
            assert batch["status"] == "completed"
            assert batch["model"] == "m"
            assert batch["error_file_id"] is None
            assert batch["usage"] == {
                "input_tokens": 900,
                "input_tokens_details": {"cached_tokens": 300},
                "output_tokens": 600,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 1500,
            }
            await check_ended(client, batch, names(300))
            first = (await client.lines(batch["output_file_id"]))[0]
            assert first["custom_id"] == "line-1"
            assert first["id"].startswith("batch_req_")
            assert first["error"] is None
            assert first["response"] == {
                "status_code": 200,
                "request_id": "req-1",
                "body": first["response"]["body"],
            }
            output = await client.call("GET", f"/v1/files/{batch['output_file_id']}")
            assert output["purpose"] == "batch_output"
            assert output["expires_at"] == output["created_at"] + 30 * 86_400
            assert (await api.job_counts())["completed"] == 1
            assert api.line_counts().completed == 300
            assert api.line_counts().in_flight == 0

    asyncio.run(scenario())


async def fail_by_name(line: BatchLine) -> LineResult:
    if line.custom_id == "refused":
        raise RequestRefused("too long", param="messages", code="context_length_exceeded")
    if line.custom_id == "broken":
        raise ValueError("a bug of the host")
    if line.custom_id == "not-json":
        return LineResult(200, "r", {"value": object()})
    return reply(line, 404 if line.custom_id == "missing" else 200)


def test_failed_lines_go_to_the_error_file_and_the_batch_completes(tmp_path: Path) -> None:
    custom_ids = ["good", "missing", "refused", "broken", "not-json"]

    async def scenario() -> None:
        async with serving(tmp_path, fail_by_name) as (_, client):
            file = await client.upload(jsonl(request_line(name) for name in custom_ids))
            batch = await client.until((await client.create(file["id"]))["id"])
            assert batch["status"] == "completed"
            await check_ended(client, batch, custom_ids)
            errors = {line["custom_id"]: line for line in await client.lines(batch["error_file_id"])}
            statuses = {name: line["response"]["status_code"] for name, line in errors.items()}
            assert statuses == {"missing": 404, "refused": 400, "broken": 500, "not-json": 500}
            assert errors["refused"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
            assert all(line["error"] is None for line in errors.values())

    asyncio.run(scenario())


def test_a_file_with_a_bad_line_fails_as_a_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            file = await client.upload(
                jsonl([request_line("a"), request_line("a"), request_line("b", url="/x")])
            )
            batch = await client.until((await client.create(file["id"]))["id"])
            assert batch["status"] == "failed"
            assert batch["output_file_id"] is batch["error_file_id"] is None
            assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
            assert batch["errors"]["object"] == "list"
            found = [(entry["code"], entry["param"], entry["line"]) for entry in batch["errors"]["data"]]
            assert found == [("duplicate_custom_id", "custom_id", 2), ("invalid_url", "url", 3)]

    asyncio.run(scenario())


def test_cancelling_keeps_what_was_finished(tmp_path: Path) -> None:
    host = HeldHost()

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, window=4) as (_, client):
            batch_id = await begin(client, 10)
            await eventually(lambda: len(host.held) == 4)
            host.held["line-1"].set_result(200)
            await eventually(lambda: "line-5" in host.held)
            assert (await client.batch(batch_id))["request_counts"]["completed"] == 1
            assert (await client.cancel(batch_id))["status"] == "cancelling"
            batch = await client.until(batch_id)
            assert batch["status"] == "cancelled"
            assert not host.held
            await check_ended(client, batch, names(10))
            errors = await client.lines(batch["error_file_id"])
            assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
            assert {line["response"] for line in errors} == {None}
            error = await client.cancel(batch_id, expect=400)
            assert error["type"] == "invalid_request_error"

    asyncio.run(scenario())


def test_expiry_is_decided_once_whatever_the_clock_does_then(tmp_path: Path) -> None:
    host, clock = HeldHost(), Clock()

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, window=2, clock=clock) as (api, client):
            batch_id = await begin(client, 5, completion_window="30m")
            await eventually(lambda: len(host.held) == 2)
            host.held["line-2"].set_result(200)
            await eventually(lambda: "line-3" in host.held)
            clock.seconds += 1_799
            await api.tick()
            assert (await client.batch(batch_id))["status"] == "in_progress"
            clock.seconds += 1
            await api.tick()
            clock.seconds -= 86_400
            batch = await client.until(batch_id)
            assert batch["status"] == "expired"
            assert batch["expired_at"] >= batch["finalizing_at"] == batch["expires_at"]
            await check_ended(client, batch, names(5))
            errors = await client.lines(batch["error_file_id"])
            assert [line["error"]["code"] for line in errors] == ["batch_expired"] * 4
            assert api.line_counts().expired == 4

    asyncio.run(scenario())


def test_a_stop_puts_lines_in_flight_back_and_a_start_goes_on(tmp_path: Path) -> None:
    first, second = HeldHost(), HeldHost()

    async def scenario() -> None:
        async with serving(tmp_path, first.submit, window=3) as (_, client):
            batch_id = await begin(client, 6)
            await eventually(lambda: len(first.held) == 3)
            first.held["line-2"].set_result(200)
            await eventually(lambda: "line-4" in first.held)
        async with serving(tmp_path, second.submit, window=3) as (_, client):
            await eventually(lambda: len(second.held) == 3)
            assert set(second.held) == {"line-1", "line-3", "line-4"}
            while (await client.batch(batch_id))["status"] == "in_progress":
                for future in second.held.values():
                    if not future.done():
                        future.set_result(200)
                await asyncio.sleep(0.002)
            batch = await client.until(batch_id)
            assert batch["status"] == "completed"
            assert "line-2" not in second.seen
            await check_ended(client, batch, names(6))

    asyncio.run(scenario())


def test_the_batch_that_expires_first_gets_the_next_place(tmp_path: Path) -> None:
    host = HeldHost()

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, window=2) as (_, client):
            await begin(client, 6, completion_window="24h")
            await eventually(lambda: len(host.held) == 2)
            urgent = await client.upload(jsonl(request_line(f"urgent-{number}") for number in (1, 2)))
            urgent_id = (await client.create(urgent["id"], completion_window="1h"))["id"]
            await client.until(urgent_id, "in_progress")
            await asyncio.sleep(0.01)
            for _ in range(3):
                seen = len(host.seen)
                host.held[min(host.held)].set_result(200)
                await eventually(lambda seen=seen: len(host.seen) > seen)
            assert host.seen == ["line-1", "line-2", "urgent-1", "urgent-2", "line-3"]
            assert host.most_held == 2

    asyncio.run(scenario())


def test_jobs_that_wait_for_a_place_have_read_no_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = FileFolder.read, []

    def noted(self, file_id, spans):  # type: ignore[no-untyped-def]
        reads.append(file_id)
        return read(self, file_id, spans)

    monkeypatch.setattr(FileFolder, "read", noted)
    host = HeldHost()

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, window=1) as (api, client):
            ids = [await begin(client, 2) for _ in range(4)]
            for batch_id in ids:
                await client.until(batch_id, "in_progress")
            await asyncio.sleep(0.01)
            assert len(reads) == 1
            await client.cancel(ids[0])
            await eventually(lambda: len(reads) == 2)
            for batch_id in ids[1:]:
                await client.cancel(batch_id)
                await client.until(batch_id, "cancelled")
            assert api.line_counts().in_flight == 0

    asyncio.run(scenario())


def test_a_place_is_given_back_where_the_bodies_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brim.batch_api.jobs.FIRST_RETRY_SECONDS", 0.01)
    read, failures = FileFolder.read, iter([True, True])

    def sometimes(self, file_id, spans):  # type: ignore[no-untyped-def]
        if next(failures, False):
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, file_id, spans)

    monkeypatch.setattr(FileFolder, "read", sometimes)

    async def scenario() -> None:
        async with serving(tmp_path, window=1) as (_, client):
            batch = await client.until(await begin(client, 3))
            await check_ended(client, batch, names(3))

    asyncio.run(scenario())


def test_lines_stay_pending_while_the_engine_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("brim.batch_api.jobs.FIRST_RETRY_SECONDS", 0.01)
    failures = iter([EngineDead("lost device"), asyncio.CancelledError()])

    async def submit(line: BatchLine) -> LineResult:
        if (failure := next(failures, None)) is not None:
            raise failure
        return reply(line)

    async def scenario() -> None:
        async with serving(tmp_path, submit, window=1) as (_, client):
            batch = await client.until(await begin(client, 3))
            assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}

    asyncio.run(scenario())
    waits = [record for record in caplog.records if "waits for an engine" in record.getMessage()]
    assert waits
    assert not any(record.exc_info for record in caplog.records), "one line a job, whatever its lines"


def test_results_wait_while_the_store_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FIRST_RETRY_SECONDS", 0.01)
    refusals = iter([True, True])
    record_lines = store.record_lines

    def sometimes(db, records):  # type: ignore[no-untyped-def]
        if next(refusals, False):
            raise sqlite3.OperationalError("disk I/O error")
        return record_lines(db, records)

    monkeypatch.setattr(store, "record_lines", sometimes)
    seen: list[str] = []

    async def submit(line: BatchLine) -> LineResult:
        seen.append(line.custom_id)
        return reply(line)

    async def scenario() -> None:
        async with serving(tmp_path, submit) as (_, client):
            batch = await client.until(await begin(client, 20))
            await check_ended(client, batch, names(20))
            assert len(seen) == 20, "a result that waits is not computed again"

    asyncio.run(scenario())


def test_a_full_disk_holds_the_job_up_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brim.batch_api.jobs.FIRST_RETRY_SECONDS", 0.01)
    write = FileFolder.write
    full = iter([False, True, True])

    def sometimes(self, file_id, chunks):  # type: ignore[no-untyped-def]
        if next(full, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, file_id, chunks)

    monkeypatch.setattr(FileFolder, "write", sometimes)

    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            batch = await client.until(await begin(client, 3))
            assert batch["status"] == "completed"
            await check_ended(client, batch, names(3))

    asyncio.run(scenario())


def test_what_fails_every_second_is_not_logged_every_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expire_batches = store.expire_batches
    tries: list[bool] = []

    def full(db, now):  # type: ignore[no-untyped-def]
        tries.append(True)
        if len(tries) in (50, 51):  # there is room, for a moment
            return expire_batches(db, now)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "expire_batches", full)

    async def scenario() -> None:
        async with serving(tmp_path, tick_seconds=0.001):
            await eventually(lambda: len(tries) >= 90)

    asyncio.run(scenario())
    assert caplog.text.count("could not be cleared") == 2


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        second = BatchApi(tmp_path, answer_at_once)
        async with serving(tmp_path) as (_, client):
            with pytest.raises(ConfigError, match="in use by another server"):
                await second.start()
            await second.stop()
            assert (await client.call("GET", "/v1/batches"))["data"] == []
        async with serving(tmp_path):
            pass

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    api = BatchApi(tmp_path / "file" / "data", answer_at_once)
    with pytest.raises(ConfigError, match="can't be used"):
        asyncio.run(api.start())


def test_expired_files_go_but_not_the_input_of_a_running_job(tmp_path: Path) -> None:
    host, clock = HeldHost(), Clock()

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, clock=clock) as (api, client):
            expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
            idle = await client.upload(good_file(1), **expiry)
            used = await client.upload(good_file(1), **expiry)
            batch_id = (await client.create(used["id"]))["id"]
            await eventually(lambda: bool(host.held))
            clock.seconds += 3_600
            await api.tick()
            await client.call("GET", f"/v1/files/{idle['id']}", expect=404)
            await client.call("GET", f"/v1/files/{used['id']}")
            error = await client.call("DELETE", f"/v1/files/{used['id']}", expect=400)
            assert batch_id in error["message"]
            await client.cancel(batch_id)
            await client.until(batch_id)
            await api.tick()
            await client.call("GET", f"/v1/files/{used['id']}", expect=404)

    asyncio.run(scenario())


def test_expired_files_make_room_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, clock, execute = HeldHost(), Clock(), Database._transaction
    file_id = ""

    def full_while_it_is_there(self, work):  # type: ignore[no-untyped-def]
        def written(db: sqlite3.Connection) -> Any:
            changes = db.total_changes
            result = work(db)
            if db.total_changes > changes and (tmp_path / "files" / file_id).exists():
                raise sqlite3.OperationalError("database or disk is full")
            return result

        return execute(self, written)

    async def scenario() -> None:
        nonlocal file_id
        async with serving(tmp_path, host.submit, clock=clock) as (api, client):
            batch_id = await begin(client, 1, completion_window="1h")  # its end has to be written too
            await eventually(lambda: bool(host.held))
            expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
            file_id = (await client.upload(good_file(1), **expiry))["id"]
            monkeypatch.setattr(Database, "_transaction", full_while_it_is_there)
            clock.seconds += 3_600
            await api.tick()
            await client.call("GET", f"/v1/files/{file_id}", expect=404)
            assert (await client.until(batch_id))["status"] == "expired"

    asyncio.run(scenario())


def test_a_server_starts_on_a_full_disk_with_a_late_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, clock, execute = HeldHost(), Clock(), Database._transaction

    def full(self, work):  # type: ignore[no-untyped-def]
        def written(db: sqlite3.Connection) -> Any:
            changes = db.total_changes
            result = work(db)
            if db.total_changes > changes:
                raise sqlite3.OperationalError("database or disk is full")
            return result

        return execute(self, written)

    async def scenario() -> None:
        async with serving(tmp_path, host.submit, clock=clock) as (_, client):
            batch_id = await begin(client, 1, completion_window="1h")
            await eventually(lambda: bool(host.held))
        clock.seconds += 3_600
        with monkeypatch.context() as disk:
            disk.setattr(Database, "_transaction", full)
            async with serving(tmp_path, host.submit, clock=clock) as (_, client):
                assert (await client.batch(batch_id))["status"] == "in_progress"
        async with serving(tmp_path, host.submit, clock=clock) as (_, client):
            assert (await client.until(batch_id))["status"] == "expired"

    asyncio.run(scenario())


def test_start_clears_what_a_crash_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            kept = await client.upload(good_file(1))
        (tmp_path / "files" / "file-0.abcd.part").write_bytes(b"half")
        (tmp_path / "files" / "file-unknown").write_bytes(b"whole, but never published")
        async with serving(tmp_path):
            assert [path.name for path in (tmp_path / "files").iterdir()] == [kept["id"]]

    asyncio.run(scenario())


class SlowDisk:
    """Holds each file between its bytes and its row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written, self.go_on = threading.Event(), threading.Event()
        write = FileFolder.write

        def slow(folder: FileFolder, file_id: str, chunks: Iterator[bytes]) -> int:
            size = write(folder, file_id, chunks)
            self.written.set()
            self.go_on.wait()
            return size

        monkeypatch.setattr(FileFolder, "write", slow)


def test_an_upload_during_the_stop_is_a_503_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        disk = SlowDisk(monkeypatch)
        async with serving(tmp_path) as (api, client):
            uploading = asyncio.create_task(client.upload(good_file(1), expect=503))
            await asyncio.to_thread(disk.written.wait)
            await api.stop()
            disk.go_on.set()
            assert (await uploading)["code"] == "server_is_draining"
            assert (await client.call("GET", "/v1/files", expect=503))["code"] == "server_is_draining"
        assert list((tmp_path / "files").iterdir()) == []

    asyncio.run(scenario())


def test_an_upload_that_is_cancelled_late_is_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        disk = SlowDisk(monkeypatch)
        async with serving(tmp_path) as (_, client):
            uploading = asyncio.create_task(client.upload(b"bytes"))
            await asyncio.to_thread(disk.written.wait)
            uploading.cancel()
            await asyncio.gather(uploading, return_exceptions=True)
            disk.go_on.set()
            while not (files := (await client.call("GET", "/v1/files"))["data"]):
                await asyncio.sleep(0.002)
            assert (tmp_path / "files" / files[0]["id"]).read_bytes() == b"bytes"
            assert files[0]["bytes"] == 5

    asyncio.run(scenario())
