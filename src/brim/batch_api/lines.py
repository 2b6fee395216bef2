"""One line of a batch job: what the host is given, what it answers, what is kept of the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from brim.core.errors import EngineDead

_LARGEST_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What the host is asked to run. `expires_at` is in Unix seconds, `line_number` starts at 1.

    `tenant` is whose batch it is, in the words of the host that mounts the API.
    """

    batch_id: str
    line_number: int
    custom_id: str
    endpoint: str
    body: dict[str, Any]
    expires_at: int
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class LineResult:
    """The host's answer, as HTTP would have given it; a status of 400 or more means the line failed."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class HostStopped(EngineDead):
    """The host runs nothing more, and not because of this line: it was told to stop, or was dead before."""


Submit = Callable[[BatchLine], Awaitable[LineResult]]


@dataclass(frozen=True, slots=True)
class LineRecord:
    """An answered line as it is stored: its line of the output file and its part in the job's sums."""

    batch_id: str
    line_number: int
    state: str
    answer: bytes
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def answered(line: BatchLine, result: LineResult) -> LineRecord:
    """The record of an answer. Raises TypeError if the body is not JSON."""
    response = {"status_code": result.status_code, "request_id": result.request_id, "body": result.body}
    usage = _mapping(result.body.get("usage"))
    return LineRecord(
        batch_id=line.batch_id,
        line_number=line.line_number,
        state="failed" if result.status_code >= 400 else "completed",
        answer=_output_line(line.batch_id, line.line_number, line.custom_id, response, None),
        input_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def unrun(batch_id: str, line_number: int, custom_id: str, code: str) -> bytes:
    """The error file's line for a request that was never answered; `code` says why."""
    message = {
        "batch_expired": "This request was not run before the batch's completion window ended.",
        "batch_cancelled": "This request was not run because the batch was cancelled.",
    }[code]
    return _output_line(batch_id, line_number, custom_id, None, {"code": code, "message": message})


def derived_id(prefix: str, batch_id: str, part: str | int) -> str:
    """The id of a part of a job, always the same: what is written again after a crash has the same bytes."""
    return prefix + hashlib.sha256(f"{batch_id} {part}".encode()).hexdigest()[:32]


def _output_line(
    batch_id: str,
    line_number: int,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
) -> bytes:
    line_id = derived_id("batch_req_", batch_id, line_number)
    line = {"id": line_id, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < _LARGEST_COUNT else 0
