"""Lines in flight at an unclean end: they count it, run among fewer, and the last two times alone."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
from pathlib import Path

import pytest

from brim.batch_api import store
from brim.batch_api.api import BatchLine, HostStopped, LineResult
from brim.batch_api.files import FileFolder
from brim.batch_api.flights import MOST_ENDS
from brim.core.errors import EngineDead
from tests.unit.batch_api.batch_harness import (
    HeldHost,
    answer_at_once,
    check_ended,
    eventually,
    good_file,
    names,
    reply,
    serving,
)


async def one_life(folder: Path, host: HeldHost, seen: int, *, window: int = 64) -> Path:
    """A server that dies once it has so many lines in flight; what it leaves behind."""
    left = folder.with_name(f"{folder.name}x")
    async with serving(folder, host.submit, window=window) as (_, client):
        if not (await client.call("GET", "/v1/batches"))["data"]:
            file = await client.upload(good_file(40))
            await client.create(file["id"])
        await eventually(lambda: len(host.held) >= seen)
        await asyncio.sleep(0.05)
        assert len(host.held) == seen
        shutil.copytree(folder, left)
    return left


def test_after_each_unclean_end_fewer_run_together_and_one_twice_alone_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = await one_life(tmp_path / "a", HeldHost(), 40)
        folder = await one_life(folder, HeldHost(), 16)
        folder = await one_life(folder, first := HeldHost(), 1)
        folder = await one_life(folder, second := HeldHost(), 1)
        (killer,) = first.seen
        assert second.seen == [killer]
        host = HeldHost()
        async with serving(folder, host.submit, window=64) as (_, client):
            batch_id = (await client.call("GET", "/v1/batches"))["data"][0]["id"]
            most: dict[str, int] = {}
            while (await client.batch(batch_id))["status"] == "in_progress":
                for name, future in [*host.held.items()]:
                    most[name] = max(most.get(name, 0), len(host.held))
                    if not future.done():
                        future.set_result(200)
                await asyncio.sleep(0.002)
            batch = await client.until(batch_id)
            await check_ended(client, batch, names(40))
            (error,) = await client.lines(batch["error_file_id"])
            assert error["custom_id"] == killer
            assert killer not in host.seen
            assert error["response"]["status_code"] == 500
            assert error["response"]["body"]["error"]["code"] == "server_error"
            assert f"{MOST_ENDS} times" in error["response"]["body"]["error"]["message"]
            assert max(most[name] for name in names(16) if name != killer) == 1
            assert max(most.values()) <= 16

    asyncio.run(scenario())


def test_a_clean_stop_does_not_count(tmp_path: Path) -> None:
    async def scenario() -> None:
        for _ in range(MOST_ENDS + 1):
            shutil.rmtree(await one_life(tmp_path / "a", HeldHost(), 40))

    asyncio.run(scenario())


@pytest.mark.parametrize(("failure", "together"), [(EngineDead("lost"), 16), (HostStopped("told to"), 40)])
def test_an_engine_that_dies_counts_where_the_server_stops_then(
    tmp_path: Path, failure: EngineDead, together: int
) -> None:
    async def scenario() -> None:
        submitted: list[str] = []
        over = asyncio.Event()

        async def submit(line: BatchLine) -> LineResult:
            submitted.append(line.custom_id)
            await over.wait()
            raise failure

        async with serving(tmp_path / "a", submit, window=64) as (_, client):
            file = await client.upload(good_file(40))
            await client.create(file["id"])
            await eventually(lambda: len(submitted) == 40)
            over.set()
            await asyncio.sleep(0.05)
        await one_life(tmp_path / "a", HeldHost(), together)

    asyncio.run(scenario())


def test_what_a_dead_engine_is_given_is_not_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("brim.batch_api.jobs.FIRST_RETRY_SECONDS", 0.01)

    async def scenario() -> None:
        submitted: list[str] = []

        async def submit(line: BatchLine) -> LineResult:
            submitted.append(line.custom_id)
            raise EngineDead("lost")

        async with serving(tmp_path, submit, window=1) as (_, client):
            first = await client.upload(good_file(1))
            await client.create(first["id"])
            await eventually(lambda: len(submitted) > 1)
            late = await client.upload(good_file(30, "late"))
            await client.create(late["id"], completion_window="1h")
            await eventually(lambda: "late-1" in submitted)
        async with serving(tmp_path):
            pass

    asyncio.run(scenario())
    assert "up to 1 batch lines in flight" in caplog.text


@pytest.mark.parametrize("late", [HostStopped("dead before"), EngineDead("dead")])
def test_each_line_in_flight_says_for_itself_what_its_host_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, late: EngineDead
) -> None:
    """One that comes when the host is dead must not hide what the others know of the death."""
    monkeypatch.setattr("brim.batch_api.jobs.FIRST_RETRY_SECONDS", 0.01)

    async def scenario() -> None:
        submitted: list[str] = []
        stopped, dead = asyncio.Event(), asyncio.Event()

        async def submit(line: BatchLine) -> LineResult:
            submitted.append(line.custom_id)
            if line.custom_id == "line-1":
                await stopped.wait()
                return reply(line)
            if line.custom_id in ("line-2", "line-3"):
                await dead.wait()
                raise EngineDead("lost")
            raise late

        async with serving(tmp_path, submit, window=3) as (_, client):
            file = await client.upload(good_file(40))
            await client.create(file["id"])
            await eventually(lambda: len(submitted) == 3)
            stopped.set()
            await eventually(lambda: len(submitted) == 4)
            await asyncio.sleep(0.05)
            assert len(submitted) == 4, "nothing more is handed to a host that is dead"
            dead.set()
            await eventually(lambda: len(submitted) > 4)
        async with serving(tmp_path):
            pass

    asyncio.run(scenario())
    assert "the server ended unexpectedly" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("cancels", [True, False])
def test_a_cancel_or_a_stop_does_not_wait_for_lines_in_a_dead_host(tmp_path: Path, cancels: bool) -> None:
    async def scenario() -> None:
        submitted: list[str] = []

        async def submit(line: BatchLine) -> LineResult:
            submitted.append(line.custom_id)
            if line.custom_id == "line-2":
                raise EngineDead("lost")
            await asyncio.Event().wait()
            raise AssertionError

        async with asyncio.timeout(10), serving(tmp_path, submit, window=3) as (_, client):
            file = await client.upload(good_file(5))
            batch = await client.create(file["id"])
            await eventually(lambda: len(submitted) == 3)
            await asyncio.sleep(0.02)
            if cancels:
                await client.cancel(batch["id"])
                ended = await client.until(batch["id"])
                assert ended["status"] == "cancelled"
                await check_ended(client, ended, names(5))

    asyncio.run(scenario())


def test_lines_that_cannot_be_read_are_not_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[bool] = []

    def refuse(self, file_id, spans):  # type: ignore[no-untyped-def]
        tried.append(True)
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        left = tmp_path / "left"
        with monkeypatch.context() as files:
            files.setattr(FileFolder, "read", refuse)
            async with serving(tmp_path / "a") as (_, client):
                file = await client.upload(good_file(3))
                await client.create(file["id"])
                await eventually(lambda: bool(tried))
                await asyncio.sleep(0.05)
                shutil.copytree(tmp_path / "a", left)
        async with serving(left):
            pass

    asyncio.run(scenario())
    assert "the server ended unexpectedly" not in caplog.text


def refusing(*_: object) -> int:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_clean_stop_does_not_count_where_the_last_results_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        submitted: list[str] = []

        async def submit(line: BatchLine) -> LineResult:
            submitted.append(line.custom_id)
            return await answer_at_once(line)

        with monkeypatch.context() as disk:
            disk.setattr(store, "record_lines", refusing)
            async with serving(tmp_path, submit) as (_, client):
                file = await client.upload(good_file(3))
                await client.create(file["id"])
                await eventually(lambda: len(submitted) == 3)
                await asyncio.sleep(0.05)
        async with serving(tmp_path):
            pass

    asyncio.run(scenario())
    assert "the last batch results could not be stored" in caplog.text
    assert "the server ended unexpectedly" not in caplog.text


@pytest.mark.parametrize("room", [False, True])
def test_an_unclean_end_that_cannot_be_counted_at_the_start_is_counted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: bool
) -> None:
    """While the server runs, or by the next one: a clean stop in between takes no mark away."""
    count, tries = store.count_unclean_end, []

    def until_there_is_room(db: sqlite3.Connection) -> int:
        tries.append(True)
        return count(db) if room and len(tries) > 3 else refusing()

    async def scenario() -> None:
        left = await one_life(tmp_path / "a", HeldHost(), 40)
        with monkeypatch.context() as disk:
            disk.setattr(store, "count_unclean_end", until_there_is_room)
            host = HeldHost()
            async with serving(left, host.submit, window=64, tick_seconds=0.01):
                await eventually(lambda: len(tries) > 5 or "ended unexpectedly" in caplog.text)
                assert len(host.held) == 40
        assert room is ("ended unexpectedly" in caplog.text)
        await one_life(left, HeldHost(), 16)

    asyncio.run(scenario())
    assert len(tries) == 4 if room else len(tries) > 4
    assert "up to 40 batch lines" in caplog.text
