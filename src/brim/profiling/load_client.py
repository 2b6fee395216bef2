"""A load client: sends requests to an OpenAI-compatible server at their times, and notes when tokens come.

Plain HTTP/1.1 over asyncio, a connection for each request, streamed completions of prompts in token ids.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.workloads.trace import NANOSECONDS, Trace

PATH = "/v1/completions"
TOKENS = range(5, 250)  # that any vocabulary has; the words mean nothing
LONGEST_LINE = 1 << 20


@dataclass
class Ask:
    """A request and what came of it; times in seconds after the start."""

    at: float
    prompt: list[int]
    max_tokens: int
    offline: bool = False
    token_times: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return len(self.token_times) >= self.max_tokens

    def ttft(self, end: float) -> float:
        """Of one without a token yet, the time it has waited at `end`."""
        return (self.token_times or [end])[0] - self.at

    def gaps(self, end: float) -> list[float]:
        """Between tokens; the last one open where the answer was not done by then."""
        times = [*self.token_times, end] if self.token_times and not self.done else self.token_times
        return [after - before for before, after in pairwise(times)]


def asks_of(trace: Trace, salt: str = "") -> list[Ask]:
    """Its requests, with prompts that begin alike where the trace says so; other ones with another salt."""
    return [
        Ask(
            each.arrival_ns / NANOSECONDS,
            _prompt(each.input_tokens, each.block_ids, trace.block_tokens, f"{salt}/{number}"),
            max(each.output_tokens, 1),
            each.task_class is TaskClass.OFFLINE,
        )
        for number, each in enumerate(trace.requests)
    ]


def _prompt(length: int, block_ids: Sequence[int], block_tokens: int, own: str) -> list[int]:
    shared = own.partition("/")[0]
    seeds = [*((f"{shared}/block {block}", block_tokens) for block in block_ids), (own, length)]
    tokens: list[int] = []
    for seed, count in seeds:
        tokens += random.Random(seed).choices(TOKENS, k=min(count, length - len(tokens)))
    return tokens


class Client:
    """One server. Raises ConfigError for an address that is none and for whatever it answers but a stream."""

    def __init__(self, url: str, *, model: str = "", headers: Mapping[str, str] | None = None) -> None:
        found = urlsplit(url if "//" in url else f"http://{url}")
        if found.scheme not in ("http", "https") or not found.hostname:
            raise ConfigError(
                f"--url {url} is no address of a server: give one such as http://127.0.0.1:8000"
            )
        self._host, self._path = found.hostname, found.path.rstrip("/").removesuffix("/v1")
        self._port = found.port or (443 if found.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if found.scheme == "https" else None
        self._headers = {"Host": found.netloc, "Connection": "close", **(headers or {})}
        self._model = model

    async def find_model(self) -> str:
        """The first that the server has, unless one was named."""
        if not self._model:
            async with asyncio.timeout(60):
                text = b"".join([part async for part in self._ask("GET", "/v1/models", b"")])
            self._model = json.loads(text)["data"][0]["id"]
        return self._model

    async def drive(self, asks: Sequence[Ask], until: float | None = None) -> float:
        """Sends all, at their times; returns how long it took.

        With `until`, what is offline is given up when that time is over and all that is online is done.
        """
        await self.find_model()
        clock = asyncio.get_running_loop().time
        start = clock()
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(self._one(ask, start)): ask for ask in asks}
            if until is not None:
                await asyncio.wait([task for task, ask in tasks.items() if not ask.offline] or tasks)
                await asyncio.sleep(max(start + until - clock(), 0))
                for task in tasks:
                    task.cancel()
        return clock() - start

    async def _one(self, ask: Ask, start: float) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(start + ask.at - clock(), 0))
        body = json.dumps(self._body(ask)).encode()
        async for line in _lines(self._ask("POST", PATH, body)):
            if line.startswith(b"data: {"):
                count = _tokens_after(json.loads(line[6:]), len(ask.token_times))
                ask.token_times += [clock() - start] * (count - len(ask.token_times))
        if not ask.done:
            raise ConfigError(
                f"an answer ended after {len(ask.token_times)} of {ask.max_tokens} tokens: the server must "
                "take `ignore_eos`, and hold prompts and answers as long as the trace's"
            )

    def _body(self, ask: Ask) -> dict[str, Any]:
        tier = {"service_tier": "flex"} if ask.offline else {}
        return {
            "model": self._model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **tier,
        }

    async def _ask(self, method: str, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The parts of the answer's body, as they come."""
        try:
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._ssl, limit=LONGEST_LINE
            )
        except OSError as exc:
            raise ConfigError(f"no server at {self._host}:{self._port}: {exc.strerror or exc}") from exc
        try:
            fields = {**self._headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"{method} {self._path}{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            parts = _body_of(reader, await _head(reader))
            async for part in parts:
                yield part
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise ConfigError(f"the server broke an answer off: {exc}") from exc
        finally:
            writer.close()


def _tokens_after(event: dict[str, Any], before: int) -> int:
    """How many tokens the answer has: as the server says, or one for each of its chunks."""
    if "error" in event:
        raise ConfigError(f"the server answers: {event['error']}")
    usage = event.get("usage")
    if usage and usage.get("completion_tokens") is not None:
        return int(usage["completion_tokens"])
    return before + bool(event.get("choices"))


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    """The fields of the answer's head. Raises ConfigError for a status other than 200."""
    status = (await reader.readline()).split(maxsplit=2)
    fields = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    if status[1:2] != [b"200"]:
        said = b"".join([part async for part in _body_of(reader, fields)])
        told = b" ".join(status[1:]).decode("latin-1").strip()
        raise ConfigError(f"the server answers {told or 'nothing'}: {said.decode(errors='replace')[:500]}")
    return fields


async def _body_of(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> AsyncIterator[bytes]:
    if fields.get("transfer-encoding", "").lower() != "chunked":
        length = fields.get("content-length")
        yield await (reader.read() if length is None else reader.readexactly(int(length)))
        return
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    left = b""
    async for part in parts:
        *lines, left = (left + part).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
    yield left


def failure(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """The errors in a group of groups."""
    for each in group.exceptions:
        yield from failure(each) if isinstance(each, BaseExceptionGroup) else (each,)
