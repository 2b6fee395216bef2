"""The OpenAI routes: chat completions, completions, models."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from brim.core.errors import EngineDead
from brim.core.request import SLO
from brim.server.answers import ChatCompletion, Completion
from brim.server.auth import tenant
from brim.server.disconnects import left, run_unless
from brim.server.failures import told
from brim.server.generation import Generation
from brim.server.lifecycle import Lifecycle
from brim.server.options import ServerOptions
from brim.server.parsing import Parsed, parse
from brim.server.requests import RequestContext
from brim.server.schemas import ChatRequest, CompletionRequest, GenerationRequest, StreamOptions
from brim.server.service import OpenAIService
from brim.server.sse import EventStream
from brim.wire import ignored
from brim.wire.errors import OpenAIRoute
from brim.wire.json_body import CLIENT_LEFT, documented, read_body
from brim.wire.targets import FAIRNESS_ID, target_ms

BYTES_FOR_A_THREAD = 262_144  # parsing more than this would hold up the streams that are open


class OpenAIRoutes:
    """Handlers over one service; `router` mounts them."""

    def __init__(self, service: OpenAIService, lifecycle: Lifecycle, options: ServerOptions) -> None:
        self._service = service
        self._lifecycle = lifecycle
        self._options = options
        self._created = int(time.time())

    def router(self) -> APIRouter:
        router = APIRouter(route_class=OpenAIRoute)
        for path, handler, request_schema, answer in (
            ("/v1/chat/completions", self.chat, ChatRequest, ChatCompletion),
            ("/v1/completions", self.completions, CompletionRequest, Completion),
        ):
            router.add_api_route(
                path,
                handler,
                methods=["POST"],
                response_model=None,
                responses={200: {"model": answer}},
                openapi_extra=documented(path, request_schema),
            )
        router.add_api_route("/v1/models", self.models, methods=["GET"])
        router.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        return router

    async def chat(self, request: Request) -> Response:
        """Answers a conversation; with `stream`, as server-sent events."""
        return await self._answer(request, ChatRequest)

    async def completions(self, request: Request) -> Response:
        """Continues prompts; with `stream`, as server-sent events."""
        return await self._answer(request, CompletionRequest)

    async def models(self) -> dict[str, Any]:
        """The names this server answers to."""
        return {"object": "list", "data": [self._model(name) for name in self._service.model_names]}

    async def model(self, name: str) -> dict[str, Any]:
        """One of them."""
        self._service.check_model(name)
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        caps = self._service.loop.caps
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "brim",
            "root": caps.model,
            "max_model_len": caps.max_model_len,
        }

    async def _answer(self, request: Request, schema: type[GenerationRequest]) -> Response:
        context = self._context(request)
        async with self._lifecycle.reading():
            raw = await read_body(request, self._options.max_body_bytes)
        parsed = await _parsed(raw, schema)
        try:
            return await self._respond(request, parsed, context)
        except EngineDead as exc:
            await self._lifecycle.require_open()  # its body was parsed while the drain began
            raise told(exc) from exc

    async def _respond(
        self, request: Request, parsed: Parsed[GenerationRequest], context: RequestContext
    ) -> Response:
        body = parsed.body
        headers = {ignored.HEADER: parsed.ignored} if parsed.ignored else {}
        if body.stream:
            generation = await run_unless(left(request.receive), self._service.start(body, context))
            if generation is not None:
                return self._stream(generation, body, headers)
        else:
            answer = await run_unless(left(request.receive), self._service.complete(body, context))
            if answer is not None:
                return Response(orjson.dumps(answer), 200, headers, "application/json")
        return Response(status_code=CLIENT_LEFT)

    def _stream(
        self, generation: Generation, body: GenerationRequest, headers: dict[str, str]
    ) -> EventStream:
        return EventStream(
            generation,
            body.stream_options or StreamOptions(),
            comment_seconds=self._options.comment_seconds,
            write_timeout_seconds=self._options.write_timeout_seconds,
            headers=headers,
        )

    def _context(self, request: Request) -> RequestContext:
        return RequestContext(
            request_id=request.state.request_id,
            arrival_ns=self._service.loop.now_ns(),
            slo=SLO(*(_target_ns(request, metric) for metric in ("ttft", "tpot", "itl"))),
            tenant=tenant(request),
            fairness_id=request.headers.get(FAIRNESS_ID, ""),
        )


async def _parsed(raw: bytes, schema: type[GenerationRequest]) -> Parsed[GenerationRequest]:
    if len(raw) > BYTES_FOR_A_THREAD:
        return await asyncio.to_thread(parse, raw, schema)
    return parse(raw, schema)


def _target_ns(request: Request, metric: str) -> int | None:
    asked_ms = target_ms(request.headers, metric)
    return None if asked_ms is None else round(asked_ms * 1e6)
