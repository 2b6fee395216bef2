"""The rows of the store, and the diagram along which a batch job moves."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

MOVES: dict[str, tuple[str, ...]] = {
    "validating": ("failed", "in_progress", "cancelling", "expired"),
    "in_progress": ("finalizing", "cancelling"),
    "finalizing": ("completed", "expired", "cancelling"),
    "cancelling": ("cancelled",),
    "failed": (),
    "completed": (),
    "expired": (),
    "cancelled": (),
}
TERMINAL = tuple(status for status, moves in MOVES.items() if not moves)


@dataclass(frozen=True, slots=True)
class FileRow:
    """A published file. Times are Unix seconds; `expires_at` None means never."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a client asked for. Times are Unix seconds."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: str
    output_expires_seconds: int
    idempotency_key: str | None
    request_hash: str
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch job. `<status>_at` is when it took that status, in Unix seconds.

    `cut_short` is the error code of the lines that were given up, None while none was.
    `metadata` and `errors` are JSON.
    """

    seq: int
    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: str
    output_expires_seconds: int
    request_hash: str
    status: str
    model: str | None
    errors: str | None
    cut_short: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def latest_stamp(self) -> int:
        stamps = (self.created_at, self.in_progress_at, self.finalizing_at, self.cancelling_at)
        return max(stamp for stamp in stamps if stamp is not None)


@dataclass(frozen=True, slots=True)
class PendingLine:
    """A line without a result. `unclean_ends` is how often a server died while the line was in flight."""

    line_number: int
    custom_id: str
    byte_offset: int
    byte_length: int
    unclean_ends: int


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is asked for: at most `limit` rows behind the one with the id `after`."""

    limit: int
    after: str | None
    newest_first: bool = True


def columns(row_type: type[Any]) -> str:
    """The column names of a row type, as SQL."""
    return ", ".join(field.name for field in fields(row_type))
