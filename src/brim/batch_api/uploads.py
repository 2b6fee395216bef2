"""Reads a multipart upload, refusing what is too large before it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from brim.batch_api.schemas import Upload
from brim.wire.errors import ApiError
from brim.wire.json_body import validated

_CHUNK_BYTES = 1 << 20
_FORM_BYTES = 1 << 20
"""Room for what a form holds besides the file."""
_CHARSET = re.compile(rb";\s*charset=[^;]*", re.IGNORECASE)


def limited(request: Request, max_file_bytes: int) -> Request:
    """The request, its body cut off with an ApiError 413 where it can't be one such file any more.

    A form is UTF-8: the charset that a client claims is dropped, as some decode to what is no text.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_file_bytes + _FORM_BYTES:
        raise too_large(max_file_bytes)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "The connection was closed before the upload was complete.")
        seen += len(message.get("body", b""))
        if seen > max_file_bytes + _FORM_BYTES:
            raise too_large(max_file_bytes)
        return message

    headers = [
        (name, _CHARSET.sub(b"", value) if name == b"content-type" else value)
        for name, value in request.scope["headers"]
    ]
    return Request({**request.scope, "headers": headers}, receive)


def too_large(max_bytes: int) -> ApiError:
    message = f"The file is larger than the {max_bytes} bytes allowed; split it into several files."
    return ApiError(413, message, param="file", code="file_too_large")


class Form(NamedTuple):
    """An upload's file, its checked fields, and the names of those that have no meaning here."""

    file: UploadFile
    fields: Upload
    ignored: list[str]


def read_form(form: FormData) -> Form:
    """Raises ApiError or RequestValidationError (both 400)."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        message = "The form has no file; send multipart/form-data with a part 'file' that has a filename."
        raise ApiError(400, message, param="file", code="missing_required_parameter")
    purpose = {"purpose": form["purpose"]} if "purpose" in form else {}
    fields = validated({**purpose, "expires_after": _expires_after(form)}, Upload)
    return Form(file, fields, sorted(form.keys() - _KNOWN))


def _expires_after(form: FormData) -> Any:
    """As OpenAI's form has it, key by key, or as one field with the JSON object. Raises ApiError 400."""
    found = {key: form[name] for key, name in _EXPIRY.items() if name in form}
    text = form.get("expires_after")
    if text is None:
        return found or None
    try:
        value = None if found or not isinstance(text, str) else orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        message = (
            """'expires_after' must be {"anchor": "created_at", "seconds": N} as JSON; """
            f"or send the fields {' and '.join(_EXPIRY.values())} in its place."
        )
        raise ApiError(400, message, param="expires_after", code="invalid_value")
    return value


_EXPIRY = {key: f"expires_after[{key}]" for key in ("anchor", "seconds")}
_KNOWN = {"file", "purpose", "expires_after", *_EXPIRY.values()}


def chunks(file: UploadFile) -> Iterator[bytes]:
    """The file's bytes; blocks on the disk."""
    while chunk := file.file.read(_CHUNK_BYTES):
        yield chunk
