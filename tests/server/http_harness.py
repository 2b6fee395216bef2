"""A whole server on a free port: real sockets, real scheduler, scripted tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import openai
from fastapi import FastAPI

from brim.batch_api.api import BatchApi
from brim.core.config import SchedulerConfig
from brim.core.plan import StepResult
from brim.core.request import Request
from brim.core.scheduler import Scheduler
from brim.engines.loop import EngineLoop, TokenStream
from brim.engines.scripted import ByteTokenizer, ScriptedEngine
from brim.server.app import create_app
from brim.server.options import ServerOptions, ServiceOptions
from brim.server.runner import Server, listen, make_server
from brim.server.service import OpenAIService

MODEL = "scripted"
HELLO = [{"role": "user", "content": "hello"}]


class SteppedEngine(ScriptedEngine):
    """Runs only as many steps as it is allowed; `close` allows all."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.allowed = threading.Semaphore(0)

    def finish(self) -> StepResult:
        self.allowed.acquire()
        return super().finish()

    def free(self) -> None:
        self.allowed.release(1_000_000)


class WatchedLoop(EngineLoop):
    """Remembers every request it was given, and which were aborted."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.requests: list[Request] = []
        self.aborted: set[str] = set()

    def submit(self, request: Request) -> TokenStream:
        self.requests.append(request)
        stream = super().submit(request)
        abort = stream.abort

        def remembered(*args) -> None:
            abort(*args)
            self.aborted.add(request.request_id)

        stream.abort = remembered
        return stream


@dataclass
class Running:
    """A server under test; clients made here are closed with it."""

    url: str
    app: FastAPI
    server: Server
    service: OpenAIService
    loop: WatchedLoop
    thread: threading.Thread
    clients: list = field(default_factory=list)

    def openai(self, api_key: str = "none") -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)
        self.clients.append(client)
        return client

    def http(self, **options) -> httpx2.Client:
        client = httpx2.Client(base_url=self.url, **options)
        self.clients.append(client)
        return client


def new_loop(engine: ScriptedEngine, **config) -> WatchedLoop:
    caps = engine.caps
    limits = SchedulerConfig(caps.num_blocks, caps.block_size, caps.max_model_len, **config)
    return WatchedLoop(engine, Scheduler(limits))


@contextmanager
def running(
    engine: ScriptedEngine | None = None,
    service_options: ServiceOptions | None = None,
    server_options: ServerOptions | None = None,
    batch_api: Callable[[OpenAIService], BatchApi] | None = None,
    **config,
) -> Iterator[Running]:
    engine = engine or ScriptedEngine()
    loop = new_loop(engine, **config)
    service = OpenAIService(loop, ByteTokenizer(), service_options)
    app = create_app(service, batch_api and batch_api(service), server_options)
    server, listener = make_server(app, log_level="warning"), listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    loop.start()
    thread.start()
    run = Running(url, app, server, service, loop, thread)
    try:
        yield run
    finally:
        if isinstance(engine, SteppedEngine):
            engine.free()
        for client in run.clients:
            client.close()
        server.handle_exit(15, None)
        thread.join()
        loop.close()


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do; pytest's own timeout is the bound."""
    while not condition():
        time.sleep(0.005)
