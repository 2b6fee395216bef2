"""The HTTP side of the Files and Batches API: reads requests, writes objects, holds no state."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile

from brim.batch_api import schemas, store, uploads
from brim.batch_api.database import Database
from brim.batch_api.downloads import Download
from brim.batch_api.files import FileFolder, new_id
from brim.batch_api.jobs import Jobs
from brim.batch_api.rows import BatchRow, FileRow, NewBatch, Page
from brim.core.estimators.completion import Completion
from brim.wire import ignored
from brim.wire.errors import ApiError, OpenAIRoute
from brim.wire.json_body import documented, load_object, read_body, validated

_THIRTY_DAYS = 2_592_000
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNIT_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
_MAX_BODY_BYTES = 1 << 20
"""Of POST /v1/batches: many times what its fields may hold."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _DiskRoute(APIRoute):
    """A route that answers 507 when the disk is full."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (OSError, sqlite3.Error) as exc:
                if not _is_disk_full(exc):
                    raise
                message = "The server's disk is full; delete files that are no longer needed, then try again."
                # Clients repeat a 5xx within seconds unless told not to.
                headers = {"x-should-retry": "false"}
                raise ApiError(507, message, type="server_error", code="disk_full", headers=headers) from exc

        return handled


class BatchRoute(OpenAIRoute, _DiskRoute):
    """An `OpenAIRoute` around a `_DiskRoute`."""


def _is_disk_full(exc: OSError | sqlite3.Error) -> bool:
    if isinstance(exc, OSError):
        return exc.errno in _NO_SPACE
    return getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


@dataclass(frozen=True, slots=True)
class FileRoutes:
    """/v1/files. The limits are bytes per file."""

    db: Database
    folder: FileFolder
    tenant: Callable[[Request], str]
    now: Callable[[], int]
    max_file_bytes: int
    max_batch_file_bytes: int
    write_timeout_seconds: float

    def add_to(self, router: APIRouter) -> None:
        router.add_api_route("/v1/files", self.upload, methods=["POST"])
        router.add_api_route("/v1/files", self.list, methods=["GET"])
        router.add_api_route("/v1/files/{file_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/v1/files/{file_id}", self.delete, methods=["DELETE"])
        router.add_api_route("/v1/files/{file_id}/content", self.content, methods=["GET"])

    async def upload(self, request: Request, response: Response) -> schemas.FileObject:
        async with uploads.limited(request, self.max_file_bytes).form(max_files=1, max_fields=16) as form:
            file, fields, unknown = uploads.read_form(form)
            if unknown:
                response.headers[ignored.HEADER] = ignored.told(unknown)
            for_batch = fields.purpose == "batch"
            limit = self.max_batch_file_bytes if for_batch else self.max_file_bytes
            if (file.size or 0) > limit:
                raise uploads.too_large(limit)
            now = self.now()
            default = now + _THIRTY_DAYS if for_batch else None
            row = FileRow(
                id=new_id("file-"),
                tenant=self.tenant(request),
                filename=file.filename or "",
                purpose=fields.purpose,
                bytes=0,
                created_at=now,
                expires_at=now + fields.expires_after.seconds if fields.expires_after else default,
            )
            return _file_object(await asyncio.to_thread(self._keep, row, file))

    def _keep(self, row: FileRow, file: UploadFile) -> FileRow:
        """Stores bytes and row, or neither; blocks. Where its caller is cancelled it goes on to its end."""
        row = replace(row, bytes=self.folder.write(row.id, uploads.chunks(file)))
        try:
            self.db.call(store.add_file, row)
        except BaseException:
            self.folder.remove(row.id)
            raise
        return row

    async def list(
        self,
        request: Request,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> schemas.FileList:
        page = Page(limit, after, newest_first=order == "desc")
        rows, has_more = await self.db.run(store.list_files, self.tenant(request), purpose, page)
        return schemas.FileList(
            data=[_file_object(row) for row in rows],
            first_id=rows[0].id if rows else None,
            last_id=rows[-1].id if rows else None,
            has_more=has_more,
        )

    async def retrieve(self, request: Request, file_id: str) -> schemas.FileObject:
        return _file_object(await self.db.run(store.find_file, self.tenant(request), file_id))

    async def delete(self, request: Request, file_id: str) -> schemas.FileDeleted:
        tenant = self.tenant(request)
        try:
            await self.db.run(store.delete_file, tenant, file_id)
        except sqlite3.Error as exc:
            if not _is_disk_full(exc):
                raise
            await self.db.run(self._delete_bytes_first, tenant, file_id)
        await asyncio.to_thread(self.folder.remove, file_id)
        return schemas.FileDeleted(id=file_id)

    def _delete_bytes_first(self, db: sqlite3.Connection, tenant: str, file_id: str) -> None:
        """On a full disk the file's own bytes are the room in which to write that it is gone."""
        store.check_deletable(db, tenant, file_id)
        self.folder.remove(file_id)
        store.delete_file(db, tenant, file_id)

    async def content(self, request: Request, file_id: str) -> Download:
        row = await self.db.run(store.find_file, self.tenant(request), file_id)
        path = self.folder.path(row.id)
        try:
            status = await asyncio.to_thread(os.stat, path)
        except FileNotFoundError:  # deleted since the row was read
            raise ApiError(404, f"No such File object: {file_id}", param="id") from None
        return Download(
            path,
            media_type="application/octet-stream",
            filename=row.filename,
            stat_result=status,
            write_timeout_seconds=self.write_timeout_seconds,
        )


@dataclass(frozen=True, slots=True)
class BatchRoutes:
    """/v1/batches. `endpoints` are the paths a batch may be for."""

    db: Database
    jobs: Jobs
    tenant: Callable[[Request], str]
    now: Callable[[], int]
    endpoints: Collection[str]

    def add_to(self, router: APIRouter) -> None:
        described = documented("/v1/batches", schemas.BatchCreate)
        router.add_api_route("/v1/batches", self.create, methods=["POST"], openapi_extra=described)
        router.add_api_route("/v1/batches", self.list, methods=["GET"])
        router.add_api_route("/v1/batches/{batch_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"])

    async def create(
        self,
        request: Request,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> schemas.Batch:
        body = validated(load_object(await read_body(request, _MAX_BODY_BYTES)), schemas.BatchCreate)
        if body.endpoint not in self.endpoints:
            served = ", ".join(self.endpoints)
            message = f"Batches for {body.endpoint!r} are not served here; use one of: {served}."
            raise ApiError(400, message, param="endpoint", code="invalid_value")
        now = self.now()
        expiry = body.output_expires_after
        new = NewBatch(
            id=new_id("batch_"),
            tenant=self.tenant(request),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            metadata=orjson.dumps(body.metadata).decode(),
            output_expires_seconds=expiry.seconds if expiry else _THIRTY_DAYS,
            idempotency_key=idempotency_key,
            request_hash=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
            created_at=now,
            expires_at=now + _window_seconds(body.completion_window),
        )
        batch = await self.db.run(store.create_batch, new)
        self.jobs.begin(batch.id)
        return self._object(batch)

    async def list(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
    ) -> schemas.BatchList:
        rows, has_more = await self.db.run(store.list_batches, self.tenant(request), Page(limit, after))
        return schemas.BatchList(
            data=[self._object(row) for row in rows],
            first_id=rows[0].id if rows else None,
            last_id=rows[-1].id if rows else None,
            has_more=has_more,
        )

    async def retrieve(self, request: Request, batch_id: str) -> schemas.Batch:
        return self._object(await self.db.run(store.find_batch, self.tenant(request), batch_id))

    async def cancel(self, request: Request, batch_id: str) -> schemas.Batch:
        tenant = self.tenant(request)
        batch, was_running = await self.db.run(store.cancel_batch, tenant, batch_id, self.now())
        if was_running:
            self.jobs.interrupt(batch_id)
        return self._object(batch)

    def _object(self, row: BatchRow) -> schemas.Batch:
        """A forecast is of a job in progress only: the others have no line to wait for, or not yet any."""
        found = self.jobs.backlog.of(row.id) if row.status == "in_progress" else None
        return _batch_object(row, None if found is None else _forecast(found, self.now()))


def _window_seconds(window: str) -> int:
    match = _WINDOW.fullmatch(window)
    if match is None:
        message = "'completion_window' must be a number from 1 to 9999 and m, h or d, such as '24h'."
        raise ApiError(400, message, param="completion_window", code="invalid_value")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _file_object(row: FileRow) -> schemas.FileObject:
    return schemas.FileObject.model_validate(row, from_attributes=True)


def _forecast(completion: Completion, now: int) -> schemas.CompletionForecast:
    return schemas.CompletionForecast(
        earliest_at=now + math.floor(completion.least_seconds),
        latest_at=now + math.ceil(completion.most_seconds),
    )


def _batch_object(row: BatchRow, forecast: schemas.CompletionForecast | None) -> schemas.Batch:
    errors = schemas.BatchErrors(data=orjson.loads(row.errors)) if row.errors else None
    usage = schemas.BatchUsage(
        input_tokens=row.input_tokens,
        input_tokens_details=schemas.InputTokensDetails(cached_tokens=row.cached_tokens),
        output_tokens=row.output_tokens,
        total_tokens=row.input_tokens + row.output_tokens,
    )
    return schemas.Batch.model_validate(
        {
            **asdict(row),
            "errors": errors,
            "metadata": orjson.loads(row.metadata),
            "request_counts": schemas.RequestCounts.model_validate(row, from_attributes=True),
            "usage": usage,
            "completion_forecast": forecast,
        }
    )
