"""A load client: sends requests to an OpenAI-compatible server at their times, and notes when tokens come.

Streamed completions of prompts in token ids.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    TCPConnector,
)

from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.workloads.trace import NANOSECONDS, Trace

PATH = "/v1/completions"
TOKENS = range(5, 250)  # that any vocabulary has; the words mean nothing
LONGEST_LINE = 1 << 20  # bytes


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
        self._url = found._replace(path=found.path.rstrip("/").removesuffix("/v1")).geturl()
        self._headers = dict(headers or {})
        self._model = model

    async def drive(self, asks: Sequence[Ask], until: float | None = None) -> float:
        """Sends all, at their times; returns how long it took.

        With `until`, what is offline is given up when that time is over and all that is online is done.
        """
        clock = asyncio.get_running_loop().time
        async with self._session() as session, asyncio.TaskGroup() as group:
            self._model = self._model or await self._first_model(session)
            start = clock()
            tasks = {group.create_task(self._one(session, ask, start)): ask for ask in asks}
            if until is not None:
                await asyncio.wait([task for task, ask in tasks.items() if not ask.offline] or tasks)
                await asyncio.sleep(max(start + until - clock(), 0))
                for task in tasks:
                    task.cancel()
        return clock() - start

    async def _first_model(self, session: ClientSession) -> str:
        async with asyncio.timeout(60), self._answer(session, "GET", "/v1/models") as answer:
            models = await answer.json(content_type=None)
        return str(models["data"][0]["id"])

    async def _one(self, session: ClientSession, ask: Ask, start: float) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(start + ask.at - clock(), 0))
        async with self._answer(session, "POST", PATH, self._body(ask)) as answer:
            async for line in answer.content:
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

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ClientSession]:
        """A connection for each request under way, be they thousands."""
        async with ClientSession(
            headers=self._headers,
            timeout=ClientTimeout(total=None, sock_read=None),
            connector=TCPConnector(limit=0),
            read_bufsize=LONGEST_LINE,
        ) as session:
            yield session

    @asynccontextmanager
    async def _answer(
        self, session: ClientSession, method: str, path: str, body: Any = None
    ) -> AsyncIterator[ClientResponse]:
        """What the server answers, its body still to come. Raises ConfigError for a status other than 200."""
        try:
            async with session.request(method, f"{self._url}{path}", json=body) as answer:
                if answer.status != 200:
                    said = (await answer.text(errors="replace"))[:500]
                    raise ConfigError(f"the server answers {answer.status} {answer.reason}: {said}")
                yield answer
        except ClientConnectorError as exc:
            raise ConfigError(f"no server at {self._url}: {exc.strerror or exc}") from exc
        except ClientError as exc:
            raise ConfigError(f"the server broke an answer off: {exc}") from exc


def _tokens_after(event: dict[str, Any], before: int) -> int:
    """How many tokens the answer has: as the server says, or one for each of its chunks."""
    if "error" in event:
        raise ConfigError(f"the server answers: {event['error']}")
    usage = event.get("usage")
    if usage and usage.get("completion_tokens") is not None:
        return int(usage["completion_tokens"])
    return before + bool(event.get("choices"))


def failure(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """The errors in a group of groups."""
    for each in group.exceptions:
        yield from failure(each) if isinstance(each, BaseExceptionGroup) else (each,)
