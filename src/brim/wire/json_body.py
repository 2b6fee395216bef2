"""A request's JSON body, read by hand: no further than its limit, and whatever content type it claims.

FastAPI would read a body of any size, decode it in the event loop, and tell half a surrogate pair as a 500.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from brim.wire.errors import ApiError
from brim.wire.json_limits import has_too_many_parts

ModelT = TypeVar("ModelT", bound=BaseModel)

CLIENT_LEFT = 499  # nobody reads it; access logs do


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body. Raises ApiError: 413 where it is over its limit, 499 where the client leaves meanwhile."""
    body = bytearray()
    try:
        if int(request.headers.get("content-length", 0)) <= max_bytes:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    break
            else:
                return bytes(body)
    except ClientDisconnect:
        message = "The connection was closed before the body was complete."
        raise ApiError(CLIENT_LEFT, message) from None
    raise ApiError(413, f"The body is over the limit of {max_bytes} bytes.", code="request_too_large")


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises ApiError 400."""
    if has_too_many_parts(raw):
        raise ApiError(400, "The body's JSON has too many parts.", code="invalid_json")
    try:
        # The hook costs little and makes the interpreter's lock change hands in the middle of a huge body.
        payload = json.loads(raw.decode(), object_hook=_unchanged)
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(payload, ensure_ascii=False).encode()  # half a surrogate pair passes json.loads
    except RecursionError:
        raise ApiError(400, "The body's JSON is nested too deeply.", code="invalid_json") from None
    except ValueError as exc:
        raise ApiError(400, f"The body is not valid JSON: {exc}.", code="invalid_json") from None
    if not isinstance(payload, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return payload


def _unchanged(decoded: dict[str, Any]) -> dict[str, Any]:
    return decoded


def validated(payload: dict[str, Any], schema: type[ModelT]) -> ModelT:
    """Raises RequestValidationError, which is a 400 that names the field."""
    try:
        return schema.model_validate(payload)
    except ValidationError as exc:
        raise RequestValidationError(exc.errors(include_url=False)) from None


def documented(path: str, schema: type[BaseModel]) -> dict[str, Any]:
    """The request body for the API's description, which FastAPI can't know; a route's `openapi_extra`."""
    pointer = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/"
    described = schema.model_json_schema(ref_template=pointer + "{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": described}}}}
