"""vLLM's endpoint plug-in `brim`: what its HTTP server lacks, put into it."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State
from starlette.middleware import Middleware

from brim.batch_api.api import BatchApi
from brim.plugins.vllm import control, engine
from brim.plugins.vllm.control import ControlRoutes
from brim.plugins.vllm.engine import EngineClient, Engines
from brim.plugins.vllm.lines import LineRunner
from brim.plugins.vllm.metrics import VllmExposition
from brim.plugins.vllm.options import HttpOptions, api_keys, read_options
from brim.plugins.vllm.tiers import Tiers
from brim.server.auth import ApiKeys, tenant
from brim.wire.errors import ApiError, OpenAIRoute

log = logging.getLogger("brim")

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class BrimEndpoints:
    """The entry point in the group `vllm.endpoint_plugins`; vLLM calls both methods once, in this order."""

    name = "brim"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes and the middleware. Raises ConfigError."""
        engine.log_beside_vllm()
        args = app.state.args
        options = read_options(getattr(args, "additional_config", None), os.environ)

        def engines() -> Engines:
            return Engines(app.state.engine_client)

        runner = LineRunner(app, engines)
        batch_api = _batch_api(app, options, runner) if options.folder and not _shared(args) else None
        if batch_api is not None:
            app.include_router(batch_api.router)
            app.router.lifespan_context = _running(batch_api, app.router.lifespan_context)
        elif options.folder:
            app.include_router(_refusal())
        app.include_router(ControlRoutes(engines, options.data_folder if batch_api else None).router())
        exposition = VllmExposition(engines, batch_api, engine.registry)
        app.add_api_route("/metrics", exposition.metrics, methods=["GET"], include_in_schema=False)
        _add_middleware(app, options, runner, args)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Nothing: the routes find the engine in the application's state when they are called."""


def _batch_api(app: FastAPI, options: HttpOptions, runner: LineRunner) -> BatchApi:
    assert options.folder is not None
    return BatchApi(
        options.folder,
        runner.submit,
        models=lambda: _model_names(app.state),
        window=options.batch_window,
        limits=options.limits,
        tenant=tenant,
    )


def _model_names(state: State) -> set[str]:
    models = state.openai_serving_models
    return {model.name for model in models.base_model_paths} | set(models.lora_requests)


def _running(batch_api: BatchApi, around: Lifespan) -> Lifespan:
    """vLLM's lifespan with the API's inside: its jobs begin when all else is there."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with around(app) as state:
            await batch_api.start()
            try:
                yield state
            finally:
                await batch_api.stop()

    return lifespan


def _shared(args: Namespace) -> bool:
    """Whether several API server processes share the address: each request may reach any of them."""
    return (getattr(args, "api_server_count", None) or 1) > 1


def _refusal() -> APIRouter:
    """The same answer from each of several processes, which can't share one folder of jobs."""
    message = "Files and Batches need a single API server process: start vLLM with --api-server-count 1."
    log.warning(message)

    async def refuse() -> None:
        raise ApiError(501, message, type="server_error", code="not_served", headers=_NO_RETRY)

    router = APIRouter(route_class=OpenAIRoute)
    for path in ("/v1/files", "/v1/files/{rest:path}", "/v1/batches", "/v1/batches/{rest:path}"):
        router.add_api_route(path, refuse, methods=["GET", "POST", "DELETE"], include_in_schema=False)
    return router


_NO_RETRY = {"x-should-retry": "false"}


def _add_middleware(app: FastAPI, options: HttpOptions, runner: LineRunner, args: Namespace) -> None:
    """Below all of vLLM's, so that it sees what was let in and counts what is refused here."""
    keys = api_keys(args)
    if keys:
        # vLLM guards its own prefixes only. A path may come with the root path or without.
        also = [root + path for root in ("", args.root_path or "") for path in control.PATHS]
        app.user_middleware.append(Middleware(ApiKeys, keys=keys, also=also))
    app.user_middleware.append(Middleware(Tiers, rules=options.tier_rules))
    app.user_middleware.append(Middleware(runner.behind))
