"""One line of a batch job, answered as HTTP would have answered it."""

from __future__ import annotations

import time

from brim.batch_api.lines import BatchLine, HostStopped, LineResult, derived_id
from brim.core.errors import EngineDead
from brim.core.request import TaskClass
from brim.server.parsing import validate
from brim.server.requests import RequestContext
from brim.server.schemas import ChatRequest, CompletionRequest, GenerationRequest
from brim.server.service import OpenAIService
from brim.wire.errors import ApiError, as_api_error

SCHEMAS: dict[str, type[GenerationRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


async def submit_line(service: OpenAIService, line: BatchLine) -> LineResult:
    """Runs the line in the offline class, due when its batch expires.

    What is wrong with the line becomes its result. Raises EngineDead if the engine died while it may have run
    the line, HostStopped if it was dead before or has been closed.
    """
    if not service.loop.alive:
        raise HostStopped("the engine was dead before the batch line came")
    request_id = derived_id("req_", line.batch_id, line.line_number)
    try:
        body = validate(line.body, _schema(line.endpoint)).body
        if body.stream:
            raise ApiError(400, "A batch line can't be streamed.", param="stream")
        return LineResult(200, request_id, await service.complete(body, _context(service, line, request_id)))
    except EngineDead as exc:
        if service.loop.alive:
            raise HostStopped("the engine was closed before it answered a batch line") from exc
        raise
    except Exception as exc:
        if not service.loop.alive:
            raise EngineDead("the engine died while it ran a batch line") from exc
        error = as_api_error(exc)
        return LineResult(error.status, request_id, error.body())


def _schema(endpoint: str) -> type[GenerationRequest]:
    if endpoint not in SCHEMAS:
        message = f"{endpoint} is not one of {', '.join(SCHEMAS)}."
        raise ApiError(400, message, param="url", code="invalid_url")
    return SCHEMAS[endpoint]


def _context(service: OpenAIService, line: BatchLine, request_id: str) -> RequestContext:
    now_ns = service.loop.now_ns()
    seconds_left = line.expires_at - time.time()
    return RequestContext(
        request_id,
        task_class=TaskClass.OFFLINE,
        arrival_ns=now_ns,
        deadline_ns=now_ns + round(seconds_left * 1e9),
        tenant=line.tenant,
        batch_id=line.batch_id,
    )
