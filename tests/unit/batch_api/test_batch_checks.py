"""A job while its input file is checked."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from brim.batch_api import validation
from tests.unit.batch_api.batch_harness import (
    Clock,
    begin,
    check_ended,
    eventually,
    good_file,
    names,
    serving,
)


def test_a_job_whose_input_is_gone_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            file = await client.upload(good_file(1))
            (tmp_path / "files" / file["id"]).unlink()
            batch = await client.until((await client.create(file["id"]))["id"])
            assert batch["status"] == "failed"
            (error,) = batch["errors"]["data"]
            assert (error["code"], error["param"]) == ("file_not_found", "input_file_id")

    asyncio.run(scenario())


class SlowCheck:
    """Holds every check of an input file until the test lets one go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = self.most_running = 0
        self.go_on = threading.Semaphore(0)
        check = validation.check

        def slow(path: Path, **rules: Any) -> validation.Findings:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.go_on.acquire()
            self.running -= 1
            return check(path, **rules)

        monkeypatch.setattr(validation, "check", slow)


def test_input_files_are_checked_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        checks = SlowCheck(monkeypatch)
        async with serving(tmp_path) as (_, client):
            ids = [await begin(client, 2) for _ in range(5)]
            await eventually(lambda: checks.running == 1)
            await asyncio.sleep(0.02)
            await client.cancel(ids[4])
            await client.until(ids.pop(), "cancelled")  # one that waits is not checked at all
            for _ in ids:
                checks.go_on.release()
            for batch_id in ids:
                assert (await client.until(batch_id))["status"] == "completed"
            assert (checks.most_running, checks.running) == (1, 0)

    asyncio.run(scenario())


def test_a_job_that_is_late_while_it_is_checked_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    async def scenario() -> None:
        checks = SlowCheck(monkeypatch)
        async with serving(tmp_path, clock=clock) as (api, client):
            batch_id = await begin(client, 2, completion_window="1h")
            await eventually(lambda: checks.running == 1)
            clock.seconds += 3_600
            await api.tick()
            checks.go_on.release()
            batch = await client.until(batch_id)
            assert (batch["status"], batch["expired_at"]) == ("expired", batch["expires_at"])
            await check_ended(client, batch, names(2))

    asyncio.run(scenario())
