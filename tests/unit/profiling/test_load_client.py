"""The load client against a bare server, which says of tokens what each test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from brim.core.errors import ConfigError
from brim.core.request import TaskClass
from brim.profiling.load_client import Ask, Client, asks_of, failure
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest

Handler = Callable[[str, dict, asyncio.StreamWriter], Awaitable[None]]
MODELS = json.dumps({"data": [{"id": "the-model"}]}).encode()
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(tokens: int | None = None, **fields: object) -> bytes:
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens}}
    return b"data: " + json.dumps({"choices": [{"text": "x"}], **usage, **fields}).encode() + b"\r\n\r\n"


async def one_by_one(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    """A token an event, and then the usage of all; an event's bytes in two parts."""
    writer.write(STREAM + chunk(b": keep-alive\n\n"))
    for count in range(1, body["max_tokens"] + 1):
        data = event(count)
        writer.write(chunk(data[:9]) + chunk(data[9:]))
        await writer.drain()
        await asyncio.sleep(0.01)
    writer.write(chunk(event(body["max_tokens"], choices=[])) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def plain(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    """Neither chunked nor with usage."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event() * body["max_tokens"] + b"data: [DONE]\n\n")


async def short(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(event(1)) + b"0\r\n\r\n")


async def broken(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + b"ff\r\ndata")


async def busy(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Too Busy\r\nContent-Length: 9\r\n\r\ntry later")


async def failing(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(b'data: {"error": {"message": "no luck"}}\n\n') + b"0\r\n\r\n")


def _run(work: Coroutine[Any, Any, float]) -> float:
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise next(failure(group)) from group


class World:
    """A server and a client of it; `asked` are the heads and bodies that came."""

    def __init__(self, handler: Handler) -> None:
        self.asked: list[tuple[str, dict]] = []
        self._handler = handler

    def drive(self, asks: list[Ask], until: float | None = None, **options: object) -> float:
        async def run() -> float:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            async with server:
                port = server.sockets[0].getsockname()[1]
                return await Client(f"http://127.0.0.1:{port}/v1/", **options).drive(asks, until)  # type: ignore[arg-type]

        return _run(run())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
            raw = await reader.readexactly(int(fields.get("Content-Length", 0)))
            if head.startswith("GET /v1/models "):
                length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MODELS)
                writer.write(length + MODELS)
            else:
                self.asked.append((head, json.loads(raw)))
                await self._handler(head, self.asked[-1][1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def test_every_token_is_timed_and_requests_are_sent_as_the_trace_says() -> None:
    world, asks = World(one_by_one), [Ask(0.0, [5, 6], 4), Ask(0.05, [7], 3, offline=True)]
    seconds = world.drive(asks, headers={"x-slo-ttft-ms": "50"})
    assert [len(ask.token_times) for ask in asks] == [4, 3]
    for ask in asks:
        times = [ask.at, *ask.token_times, seconds]
        assert times == sorted(times)
        assert all(ask.gaps(seconds))
    (head, online), (_, offline) = world.asked
    assert head.startswith("POST /v1/completions ")
    assert "x-slo-ttft-ms: 50\r\n" in head
    assert (online["model"], online["prompt"], online["ignore_eos"]) == ("the-model", [5, 6], True)
    assert "service_tier" not in online
    assert offline["service_tier"] == "flex"


def test_a_server_that_tells_no_usage_gives_a_token_with_each_chunk() -> None:
    ask = Ask(0.0, [5], 6)
    World(plain).drive([ask], model="named")
    assert len(ask.token_times) == 6


def test_offline_requests_are_given_up_when_the_time_is_over() -> None:
    async def endless(head: str, body: dict, writer: asyncio.StreamWriter) -> None:
        if body["max_tokens"] < 100:
            await one_by_one(head, body, writer)
        else:
            writer.write(STREAM + chunk(event(1)))
            await asyncio.sleep(60)

    asks = [Ask(0.0, [5], 100, offline=True), Ask(0.1, [5], 3)]
    assert World(endless).drive(asks, until=0.05) < 30
    assert [len(ask.token_times) for ask in asks] == [1, 3]


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (short, "after 1 of 4 tokens: the server must take `ignore_eos`"),
        (broken, "broke an answer off"),
        (busy, "answers 503 Too Busy: try later"),
        (failing, "answers: .*no luck"),
    ],
)
def test_what_goes_wrong_is_said(handler: Handler, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        World(handler).drive([Ask(0.0, [5], 4)])


@pytest.mark.parametrize("url", ["ftp://here", "http://", "http:///v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a server"):
        Client(url)


def test_nobody_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no server at http://127\.0\.0\.1:1"):
        _run(Client("127.0.0.1:1").drive([]))


def test_prompts_begin_alike_where_the_trace_says_so_and_are_others_with_another_salt() -> None:
    shared, other = (1, 2), (1, 3)
    trace = Trace(
        "t",
        [
            TraceRequest(0, 40, 1, block_ids=shared),
            TraceRequest(NANOSECONDS, 50, 2, TaskClass.OFFLINE, block_ids=shared),
            TraceRequest(NANOSECONDS, 30, 0, block_ids=other),
        ],
        block_tokens=16,
    )
    first, second, third = asks_of(trace, "a")
    assert [len(ask.prompt) for ask in (first, second, third)] == [40, 50, 30]
    assert first.prompt[:32] == second.prompt[:32]
    assert first.prompt[32:] != second.prompt[32:40]
    assert third.prompt[:16] == first.prompt[:16]
    assert third.prompt[16:] != first.prompt[16:30]
    assert (first.offline, second.offline, second.at, third.max_tokens) == (False, True, 1.0, 1)
    assert asks_of(trace, "b")[0].prompt[:32] != first.prompt[:32]


def test_who_is_not_done_counts_with_the_time_it_has_waited() -> None:
    assert Ask(1.0, [5], 3).ttft(4.0) == 3.0
    assert Ask(1.0, [5], 3, token_times=[2.0, 2.5]).gaps(4.0) == [0.5, 1.5]
    assert Ask(1.0, [5], 2, token_times=[2.0, 2.5]).gaps(4.0) == [0.5]
