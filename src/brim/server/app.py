"""The application: every route and middleware of one server, put together."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException

import brim
from brim.batch_api.api import BatchApi
from brim.server.auth import ApiKeys
from brim.server.failures import told
from brim.server.lifecycle import Lifecycle
from brim.server.options import ServerOptions
from brim.server.prometheus import Exposition
from brim.server.request_ids import RequestIds
from brim.server.routes import OpenAIRoutes
from brim.server.service import OpenAIService
from brim.server.status import StatusRoutes
from brim.wire.errors import ApiError


def create_app(
    service: OpenAIService, batch_api: BatchApi | None = None, options: ServerOptions | None = None
) -> FastAPI:
    """The server's application. Its lifespan starts and stops `batch_api`.

    The service's engine loop is drained when the application stops; starting it before and closing it
    afterwards is the caller's. `app.state.lifecycle` is what `runner.Server` drains, `app.state.options`
    what it keeps to.
    """
    options = options or ServerOptions()
    lifecycle = Lifecycle(service.loop, batch_api, options)
    app = FastAPI(title="Brim", version=brim.__version__, lifespan=lifecycle.lifespan)
    app.state.lifecycle = lifecycle
    app.state.options = options
    app.include_router(OpenAIRoutes(service, lifecycle, options).router())
    exposition = Exposition(service.loop, service.model_names[0], batch_api, service.targets)
    app.include_router(StatusRoutes(service.loop, lifecycle, exposition, batch_api).router())
    if batch_api is not None:
        app.include_router(batch_api.router, dependencies=[Depends(lifecycle.require_open)])
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    if options.api_keys:
        also = ["/metrics"] if options.guard_metrics else []
        app.add_middleware(ApiKeys, keys=options.api_keys, also=also)
    app.add_middleware(RequestIds)  # the last one added sees every request first
    return app


async def _no_route(request: Request, exc: Exception) -> Response:
    """Unknown paths and methods: the only HTTPExceptions that no route has turned into an answer."""
    assert isinstance(exc, HTTPException)
    message = f"{exc.detail}: {request.method} {request.url.path}"
    return ApiError(exc.status_code, message, headers=exc.headers).response()


async def _failed(request: Request, exc: Exception) -> Response:
    return told(exc).response()
