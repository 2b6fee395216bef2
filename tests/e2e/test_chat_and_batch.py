"""The main job, as a user does it: the real client, a server process, chats and a batch job at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch

from tests.e2e.conftest import ServerProcess

CHATS, LINES, CHAT_TOKENS, LINE_TOKENS = 20, 100, 24, 16
SHARED = "You are one of many readers of the same long introduction. " * 4
TERMINAL = {"completed", "failed", "expired", "cancelled"}

Serve = Callable[..., ServerProcess]
Reference = Callable[[str, int], str]


def question(i: int) -> str:
    return f"{SHARED}What is {i} times {i + 3}?"


def line(i: int) -> str:
    body = {
        "model": "builtin",
        "messages": [{"role": "user", "content": f"{SHARED}Line {i}"}],
        "max_tokens": LINE_TOKENS,
        "temperature": 0,
    }
    return json.dumps(
        {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    )


def client_of(server: ServerProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=120)


async def chat(client: AsyncOpenAI, i: int) -> tuple[str, Any]:
    stream = await client.chat.completions.create(
        model="builtin",
        messages=[{"role": "user", "content": question(i)}],
        max_completion_tokens=CHAT_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text, usage


async def start_batch(client: AsyncOpenAI) -> Batch:
    content = "\n".join(line(i) for i in range(LINES)).encode()
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


async def wait_for(client: AsyncOpenAI, batch_id: str, done: Callable[[Batch], bool]) -> Batch:
    while True:
        batch = await client.batches.retrieve(batch_id)
        if done(batch) or batch.status in TERMINAL:
            return batch
        await asyncio.sleep(0.05)


async def outputs(client: AsyncOpenAI, batch: Batch) -> dict[str, Any]:
    """The answers by custom_id; fails where one comes twice."""
    assert batch.status == "completed", batch
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    content = await client.files.content(batch.output_file_id)
    lines = [json.loads(raw) for raw in content.text.splitlines()]
    answers = {entry["custom_id"]: entry["response"]["body"] for entry in lines}
    assert len(answers) == len(lines) == LINES
    return answers


def check_batch(answers: dict[str, Any], reference: Reference) -> None:
    for i in range(LINES):
        text = answers[f"line-{i}"]["choices"][0]["message"]["content"]
        assert text == reference(f"{SHARED}Line {i}", LINE_TOKENS), i


def test_twenty_streams_and_a_batch_job_at_the_same_time(serve: Serve, reference: Reference) -> None:
    server = serve()

    async def both() -> None:
        async with client_of(server) as client:
            batch = await start_batch(client)
            chats = await asyncio.gather(*(chat(client, i) for i in range(CHATS)))
            for i, (text, usage) in enumerate(chats):
                assert text == reference(question(i), CHAT_TOKENS), i
                assert 1 <= usage.completion_tokens <= CHAT_TOKENS
            batch = await wait_for(client, batch.id, lambda _: False)
            check_batch(await outputs(client, batch), reference)
            again = (await chat(client, 0))[1]  # its prompt has been computed before
            cached = again.prompt_tokens_details.cached_tokens
            assert 0 < cached < again.prompt_tokens

    asyncio.run(both())
    assert server.stop() == 0


def test_a_batch_job_survives_kill_9(serve: Serve, reference: Reference) -> None:
    server = serve()

    async def first_half() -> str:
        async with client_of(server) as client:
            batch = await start_batch(client)
            chats = asyncio.gather(*(chat(client, i) for i in range(CHATS)), return_exceptions=True)
            await wait_for(client, batch.id, lambda b: bool(b.request_counts and b.request_counts.completed))
            server.kill()
            await chats
            return batch.id

    async def second_half(batch_id: str) -> None:
        async with client_of(server) as client:
            assert (await client.batches.retrieve(batch_id)).status in {
                "in_progress",
                "finalizing",
                "completed",
            }
            assert (await chat(client, 1))[0] == reference(question(1), CHAT_TOKENS)
            batch = await wait_for(client, batch_id, lambda _: False)
            check_batch(await outputs(client, batch), reference)
            assert batch.request_counts is not None
            assert batch.request_counts.completed == batch.request_counts.total == LINES

    batch_id = asyncio.run(first_half())
    server.start()
    asyncio.run(second_half(batch_id))
