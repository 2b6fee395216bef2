"""A client and a host for the batch API, in one process and without a network."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from brim.batch_api.api import BatchApi, BatchLine, LineResult

ENDPOINT = "/v1/chat/completions"
TERMINAL = ("failed", "completed", "expired", "cancelled")
ARROWS = {
    "validating": {"failed", "in_progress", "cancelling", "expired"},
    "in_progress": {"finalizing", "cancelling"},
    "finalizing": {"completed", "expired", "cancelling"},
    "cancelling": {"cancelled"},
}


def request_line(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **changes.pop("body", {})}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changes}


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def names(count: int, prefix: str = "line") -> list[str]:
    return [f"{prefix}-{number}" for number in range(1, count + 1)]


def good_file(count: int, prefix: str = "line") -> bytes:
    return jsonl(request_line(name) for name in names(count, prefix))


def reply(line: BatchLine, status: int = 200) -> LineResult:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    return LineResult(status, f"req-{line.line_number}", {"echo": line.custom_id, "usage": usage})


async def answer_at_once(line: BatchLine) -> LineResult:
    return reply(line)


class Clock:
    def __init__(self, seconds: float = 1_800_000_000) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class HeldHost:
    """Holds every line until the test lets it go. The custom_ids of all batches must differ."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Future[int]] = {}
        self.seen: list[str] = []
        self.most_held = 0

    async def submit(self, line: BatchLine) -> LineResult:
        self.seen.append(line.custom_id)
        future = self.held[line.custom_id] = asyncio.get_running_loop().create_future()
        self.most_held = max(self.most_held, len(self.held))
        try:
            status = await future
        finally:
            self.held.pop(line.custom_id, None)
        return reply(line, status)


class Client:
    """The few calls of the API that tests need; every answer must be a success unless asked otherwise."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def call(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        response = await self.http.request(method, path, **options)
        assert response.status_code == expect, response.text
        answer = response.json()
        if expect >= 400:
            assert set(answer["error"]) == {"message", "type", "param", "code"}
            return answer["error"]
        return answer

    async def upload(self, content: bytes, expect: int = 200, **fields: str) -> Any:
        data = {"purpose": "batch", **fields}
        return await self.call("POST", "/v1/files", expect, files={"file": ("in.jsonl", content)}, data=data)

    async def create(self, file_id: str, expect: int = 200, headers: Any = None, **changes: Any) -> Any:
        body = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h", **changes}
        return await self.call("POST", "/v1/batches", expect, json=body, headers=headers)

    async def batch(self, batch_id: str) -> Any:
        return await self.call("GET", f"/v1/batches/{batch_id}")

    async def cancel(self, batch_id: str, expect: int = 200) -> Any:
        return await self.call("POST", f"/v1/batches/{batch_id}/cancel", expect)

    async def until(self, batch_id: str, *statuses: str) -> Any:
        while (batch := await self.batch(batch_id))["status"] not in (statuses or TERMINAL):
            await asyncio.sleep(0.002)
        return batch

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        response = await self.http.get(f"/v1/files/{file_id}/content")
        assert response.status_code == 200
        return [json.loads(line) for line in response.content.splitlines()]


@contextlib.asynccontextmanager
async def serving(
    folder: Path, submit: Callable[[BatchLine], Awaitable[LineResult]] = answer_at_once, **options: Any
) -> AsyncIterator[tuple[BatchApi, Client]]:
    api = BatchApi(folder, submit, **{"tick_seconds": 3600, **options})
    app = FastAPI()
    app.include_router(api.router)
    transport = httpx2.ASGITransport(app)
    await api.start()
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://batch") as http:
            yield api, Client(http)
    finally:
        await api.stop()


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def stamps_are_monotone(batch: dict[str, Any]) -> bool:
    order = ("created_at", "in_progress_at", "finalizing_at", "cancelling_at")
    ends = ("completed_at", "failed_at", "expired_at", "cancelled_at")
    stamps = [batch[name] for name in (*order, *ends) if batch[name] is not None]
    return stamps == sorted(stamps)


async def check_ended(client: Client, batch: dict[str, Any], custom_ids: list[str]) -> None:
    """B1 to B3 of a batch that has ended: stamps, counts, and each line once over both files."""
    output = await client.lines(batch["output_file_id"])
    errors = await client.lines(batch["error_file_id"])
    counts = batch["request_counts"]
    assert stamps_are_monotone(batch)
    assert counts == {"total": counts["total"], "completed": len(output), "failed": len(errors)}
    assert counts["total"] == len(output) + len(errors)
    found = [line["custom_id"] for line in (*output, *errors)]
    assert sorted(found) == sorted(custom_ids if counts["total"] else ())


async def begin(client: Client, count: int, **changes: object) -> str:
    """The id of a job of so many lines."""
    file = await client.upload(good_file(count))
    return (await client.create(file["id"], **changes))["id"]
