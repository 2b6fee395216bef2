"""vLLM's HTTP server as far as the plug-in sees it: an application, its state, an engine client."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Gauge

from brim.plugins.vllm import engine
from brim.plugins.vllm.endpoints import BrimEndpoints

MODEL = "tiny"


class FakeCore:
    """The client of two engine cores, whose schedulers are Brim's unless `mode` is empty."""

    core_engines = (b"0", b"1")
    engine_ranks_managed = (0, 1)

    def __init__(self) -> None:
        self.mode = "active"
        self.fails = False
        self.refuses = ""  # why, where a switch is refused
        self.refusing: Sequence[bytes] = self.core_engines
        self.asked: list[str] = []  # what of engine 0

    async def _call_utility_async(self, method: str, *args: str, engine: bytes) -> dict[str, Any]:
        if engine == b"0":
            self.asked.append(method)
        if self.fails:
            raise RuntimeError("no answer")
        figures = {"step_time_bias": 0.5 + int(engine)}
        if method == "brim_figures":
            return figures
        if method == "brim_samples":
            return figures | {'requests_arrived_total{class="offline"}': 3.0}
        status = {"scheduler": "AScheduler", "mode": self.mode}
        if method == "brim_switch" and self.refuses and engine in self.refusing:
            return status | {"refused": self.refuses}
        if method == "brim_switch" and self.mode:
            self.mode = status["mode"] = args[0]
        return status


class FakeEngine:
    """`hold` keeps requests until it is set. The next ones are turned away `busy` times, then fail `breaks`
    times, after which the cores answer again, then are aborted `aborts` times."""

    def __init__(self) -> None:
        self.engine_core = FakeCore()
        self.errored = False
        self.hold: asyncio.Event | None = None
        self.busy = 0
        self.breaks = 0
        self.aborts = 0
        self.running = 0
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []


def make_app(engine_client: FakeEngine, **flags: Any) -> FastAPI:
    """As vLLM builds its own: routes, then plug-ins, then the middleware around."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        del app.state.engine_client

    app = FastAPI(lifespan=lifespan)
    app.state.args = Namespace(**{"api_key": None, "root_path": "", "additional_config": {}} | flags)
    app.state.engine_client = engine_client
    model = Namespace(name=MODEL)
    app.state.openai_serving_models = Namespace(base_model_paths=[model], lora_requests={})
    app.add_api_route("/v1/chat/completions", generate, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", generate, methods=["POST"], response_model=None)
    BrimEndpoints().attach_router(app)
    return app


@contextmanager
def vllm_registry() -> Iterator[None]:
    """What vLLM would show on /metrics by itself."""
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Running", registry=registry).set(7)
    own, engine.registry = engine.registry, lambda: registry
    try:
        yield
    finally:
        engine.registry = own


async def generate(request: Request) -> Response:
    """Answers like vLLM's route; the one who left is told of by the request, never by a cancel."""
    client: FakeEngine = request.app.state.engine_client
    body = await request.json()
    client.bodies.append(body)
    client.headers.append(dict(request.headers))
    if client.busy:
        client.busy -= 1
        return _error(503, "too many requests are queued")
    if client.breaks:
        client.breaks -= 1
        client.engine_core.fails = client.engine_core.fails and client.breaks > 0
        raise RuntimeError("cannot schedule new futures after shutdown")
    if body.get("max_tokens", 1) < 1:
        return _error(400, "max_tokens must be at least 1")
    if client.hold is not None:
        client.running += 1
        waits = [asyncio.create_task(client.hold.wait()), asyncio.create_task(request.receive())]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        client.running -= 1
    if client.errored:
        return _error(500, "EngineCore encountered an issue.")
    if body.get("stream"):
        return StreamingResponse(_chunks(), media_type="text/event-stream")
    reason = "abort" if client.aborts else "stop"
    client.aborts = max(0, client.aborts - 1)
    choice = {"index": 0, "text": '"service_tier":null', "finish_reason": reason}
    answer = {"id": "a", "choices": [choice], "service_tier": None, "usage": {"prompt_tokens": 2}}
    return JSONResponse(answer)


async def _chunks() -> AsyncIterator[str]:
    yield 'data: {"id":"a","choices":[]}\n\n'
    yield ": keep-alive\n\n"
    yield "data: [DONE]\n\n"


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "code": status}}, status)
