"""What the HTTP side costs per streamed token, beside a bare Starlette stream of the same bytes.

    python benchmarks/http_streams.py [--streams 200] [--tokens 100] [--step-ms 25]

A scripted engine gives every stream one token per step; a client process reads all streams over
loopback and checks that nothing is lost. CPU seconds are those of the event loop's thread alone, so
neither the engine nor the client counts. The bare server is woken in the same way, once per step from
another thread, and sends the very events that the first stream of Brim's answer had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from brim.core.config import SchedulerConfig
from brim.core.plan import StepResult
from brim.core.scheduler import Scheduler
from brim.engines.loop import EngineLoop
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.app import create_app
from brim.server.runner import listen, make_server
from brim.server.service import OpenAIService

PATH = "/v1/completions"


@dataclass(frozen=True)
class Load:
    streams: int
    tokens: int
    step_seconds: float

    def body(self) -> bytes:
        fields = {"model": "scripted", "prompt": "x", "max_tokens": self.tokens, "stream": True}
        return json.dumps(fields).encode()


class PacedEngine(ScriptedEngine):
    """Steps that take as long as a device's would, so that every token is a chunk of its own."""

    def __init__(self, load: Load) -> None:
        super().__init__(num_blocks=load.streams * (load.tokens // 16 + 2), max_model_len=load.tokens + 16)
        self._seconds = load.step_seconds

    def finish(self) -> StepResult:
        time.sleep(self._seconds)
        return super().finish()


class BareStreams:
    """Sends `events` to every stream, one at each tick of a thread."""

    def __init__(self, events: list[bytes], load: Load) -> None:
        self._events = events
        self._load = load
        self._waiting: list[asyncio.Event] = []
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self.app = Starlette(routes=[Route(PATH, self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> StreamingResponse:
        await request.body()
        if self._event_loop is None:
            self._event_loop = asyncio.get_running_loop()
            threading.Thread(target=self._tick, daemon=True).start()
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        tick = asyncio.Event()
        self._waiting.append(tick)
        for event in self._events:
            await tick.wait()
            tick.clear()
            yield event
        self._waiting.remove(tick)

    def _tick(self) -> None:
        while True:
            time.sleep(self._load.step_seconds)
            self._event_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for tick in self._waiting:
            tick.set()


def client(port: int, load: Load) -> None:
    """Reads all streams; prints how many events came, the last one of each stream not counted."""

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = load.body()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        content = await reader.read()
        writer.close()
        assert b" 200 OK" in content[:20], content[:200]
        assert b"data: [DONE]\n\n" in content, content[-200:]
        assert content.count(b'"finish_reason":"length"') == 1
        return content.count(b"data: {")

    async def every() -> int:
        return sum(await asyncio.gather(*(one() for _ in range(load.streams))))

    print(asyncio.run(every()))


def cpu_per_token(server: uvicorn.Server, load: Load, during: Callable[[int], None] | None = None) -> tuple:
    """(microseconds of the event loop's thread per token, chunks that came)."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    if during is not None:
        during(port)
    clock = time.pthread_getcpuclockid(thread.ident)
    before = time.clock_gettime(clock)
    arguments = [sys.executable, __file__, "--client", str(port), *_arguments(load)]
    chunks = int(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)
    seconds = time.clock_gettime(clock) - before
    server.should_exit = True
    thread.join()
    return seconds * 1e6 / (load.streams * load.tokens), chunks


def measure(load: Load) -> None:
    engine = PacedEngine(load)
    caps = engine.caps
    limits = SchedulerConfig(caps.num_blocks, caps.block_size, caps.max_model_len)
    loop = EngineLoop(engine, Scheduler(limits))
    loop.start()
    events: list[bytes] = []

    def take_sample(port: int) -> None:
        url = f"http://127.0.0.1:{port}{PATH}"
        with urllib.request.urlopen(urllib.request.Request(url, load.body())) as answer:
            events.extend(event + b"\n\n" for event in answer.read().split(b"\n\n") if event)

    app = create_app(OpenAIService(loop, ByteTokenizer()))
    brim, chunks = cpu_per_token(make_server(app, log_level="warning"), load, take_sample)
    loop.close()
    bare_app = BareStreams(events, load).app
    config = uvicorn.Config(bare_app, log_level="warning", access_log=False)
    bare, bare_chunks = cpu_per_token(uvicorn.Server(config), load)
    tokens = load.streams * load.tokens
    print(f"{load.streams} streams of {load.tokens} tokens, one step every {load.step_seconds * 1e3:g} ms")
    print(f"  brim  {brim:6.1f} us of CPU per token   {chunks} chunks for {tokens} tokens")
    print(f"  bare  {bare:6.1f} us of CPU per token   {bare_chunks} chunks")
    print(f"  ratio {brim / bare:6.2f}")


def _arguments(load: Load) -> list[str]:
    return [f"--streams={load.streams}", f"--tokens={load.tokens}", f"--step-ms={load.step_seconds * 1e3}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--step-ms", type=float, default=25)
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    load = Load(given.streams, given.tokens, given.step_ms / 1e3)
    if given.client is None:
        measure(load)
    else:
        client(given.client, load)


if __name__ == "__main__":
    main()
