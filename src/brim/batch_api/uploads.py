"""Reads a multipart upload, refusing what is too large before it is read."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.types import Message

from brim.batch_api.schemas import Upload
from brim.wire.errors import ApiError

_CHUNK_BYTES = 1 << 20
_FORM_BYTES = 1 << 20
"""Room for what a form holds besides the file."""


def limited(request: Request, max_file_bytes: int) -> Request:
    """The request, its body cut off with an ApiError 413 where it can't be one such file any more."""
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

    return Request(request.scope, receive)


def too_large(max_bytes: int) -> ApiError:
    message = f"The file is larger than the {max_bytes} bytes allowed; split it into several files."
    return ApiError(413, message, param="file", code="file_too_large")


def read_form(form: FormData) -> tuple[UploadFile, Upload]:
    """The file part and the checked fields. Raises ApiError or RequestValidationError (both 400)."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        message = "The form has no file; send multipart/form-data with a part 'file' that has a filename."
        raise ApiError(400, message, param="file", code="missing_required_parameter")
    names = {"anchor": "expires_after[anchor]", "seconds": "expires_after[seconds]"}
    expires_after = {key: form[name] for key, name in names.items() if name in form}
    fields = {"purpose": form["purpose"]} if "purpose" in form else {}
    try:
        return file, Upload.model_validate({**fields, "expires_after": expires_after or None})
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from exc


def chunks(file: UploadFile) -> Iterator[bytes]:
    """The file's bytes; blocks on the disk."""
    while chunk := file.file.read(_CHUNK_BYTES):
        yield chunk
