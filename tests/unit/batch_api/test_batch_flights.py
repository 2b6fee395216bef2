"""Lines in flight at an unclean end: they count it, run among fewer, and the last time alone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from brim.batch_api.api import BatchLine, HostStopped, LineResult
from brim.batch_api.flights import MOST_ENDS
from brim.core.errors import EngineDead
from tests.unit.batch_api.batch_harness import (
    HeldHost,
    check_ended,
    eventually,
    good_file,
    names,
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


def test_after_each_unclean_end_fewer_run_together_and_the_last_alone_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = await one_life(tmp_path / "a", HeldHost(), 40)
        folder = await one_life(folder, HeldHost(), 16)
        folder = await one_life(folder, last := HeldHost(), 1)
        (killer,) = last.seen
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
