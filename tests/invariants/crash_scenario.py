"""A server with one client in one process, which a fault point or its parent kills with SIGKILL.

Run again on the same folder it goes on where it was, as a restarted server and a retrying client do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from brim.batch_api.api import BatchLine, LineResult
from tests.unit.batch_api.batch_harness import Client, good_file, reply, serving

LINES = 12
PARALLEL = 4


def kill_at(point: str, time: int) -> Callable[[str], None]:
    """Kills this process the `time`-th time that it passes the point."""
    passed = 0

    def fault(name: str) -> None:
        nonlocal passed
        passed += name == point
        if passed == time:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def run(folder: str, point: str, time: int, killers: Collection[str] = ()) -> None:
    asyncio.run(_run(Path(folder), kill_at(point, time), killers))


async def _run(folder: Path, fault: Callable[[str], None], killers: Collection[str]) -> None:
    async def submit(line: BatchLine) -> LineResult:
        _note(folder, "submitted", line.custom_id)
        await asyncio.sleep(0.002 * (line.line_number % 3))
        if line.custom_id in killers:
            os.kill(os.getpid(), signal.SIGKILL)
        return reply(line, 400 if line.line_number % 4 == 0 else 200)

    async with serving(folder / "data", submit, window=PARALLEL, fault=fault) as (_, client):
        batch = await _create(client)
        fault("batch.created")
        while True:
            batch = await client.batch(batch["id"])
            _note(folder, "observed", batch)
            if batch["output_file_id"]:
                break
            await asyncio.sleep(0.001)
        _note(folder, "output", await client.lines(batch["output_file_id"]))
        _note(folder, "error", await client.lines(batch["error_file_id"]))


async def _create(client: Client) -> dict[str, Any]:
    batches = (await client.call("GET", "/v1/batches"))["data"]
    if batches:
        return batches[0]
    files = (await client.call("GET", "/v1/files"))["data"]
    file = files[0] if files else await client.upload(good_file(LINES))
    return await client.create(file["id"], headers={"Idempotency-Key": "once"})


def _note(folder: Path, name: str, value: Any) -> None:
    with (folder / name).open("a") as file:
        file.write(json.dumps(value) + "\n")


def notes(folder: Path, name: str) -> list[Any]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
