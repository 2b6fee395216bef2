"""The Files and Batches API over HTTP: the openai client, and every request that must be refused."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import httpx2
import openai
import openai.types
import openai.types.batch_usage
import pytest
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

from brim.batch_api import schemas, store
from brim.batch_api.api import BatchApi, BatchLine, Limits, LineResult
from brim.batch_api.files import FileFolder

ENDPOINT = "/v1/chat/completions"
LIMITS = Limits(file_bytes=2 << 20, batch_file_bytes=1 << 20)


async def submit(line: BatchLine) -> LineResult:
    if line.custom_id.startswith("held"):
        await asyncio.Event().wait()
    return LineResult(200, f"req-{line.line_number}", {"echo": line.body["messages"]})


def tenant_of(request: Request) -> str:
    return request.headers.get("x-test-tenant", "")


def make_app(folder: Path) -> FastAPI:
    api = BatchApi(folder, submit, models=lambda: ["m"], limits=LIMITS, tenant=tenant_of)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await api.start()
        yield
        await api.stop()

    app = FastAPI(lifespan=lifespan)
    app.include_router(api.router)
    return app


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def base_url(data_folder: Path) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(make_app(data_folder), ws="none", log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{base_url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(base_url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base_url) as http:
        yield http


def content(*custom_ids: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    lines = ({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body} for name in custom_ids)
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(client: openai.OpenAI, *custom_ids: str) -> str:
    return client.files.create(file=("in.jsonl", content(*custom_ids)), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, **changes: Any) -> openai.types.Batch:
    return client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", **changes)


def until_ended(client: openai.OpenAI, batch_id: str) -> openai.types.Batch:
    while True:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("failed", "completed", "expired", "cancelled"):
            return batch


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def fields_match(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert set(theirs.model_fields) <= set(ours.model_fields)


def test_our_objects_have_every_field_of_openais() -> None:
    fields_match(schemas.Batch, openai.types.Batch)
    fields_match(schemas.FileObject, openai.types.FileObject)
    fields_match(schemas.FileDeleted, openai.types.FileDeleted)
    fields_match(schemas.BatchErrors, openai.types.batch.Errors)
    fields_match(schemas.BatchError, openai.types.BatchError)
    fields_match(schemas.RequestCounts, openai.types.BatchRequestCounts)
    fields_match(schemas.BatchUsage, openai.types.batch_usage.BatchUsage)
    theirs = openai.types.Batch.model_fields["status"].annotation
    assert set(get_args(schemas.Status)) == set(get_args(theirs))


def test_a_batch_from_upload_to_download(client: openai.OpenAI) -> None:
    file_id = upload(client, "a", "b", "c")
    made = create(client, file_id, metadata={"job": "night"})
    openai.types.Batch.model_validate(made.to_dict(), strict=True)
    assert made.status == "validating"
    assert made.expires_at == made.created_at + 86_400
    batch = until_ended(client, made.id)
    assert batch.status == "completed"
    assert batch.metadata == {"job": "night"}
    assert batch.output_file_id is not None
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 3
    output = client.files.content(batch.output_file_id)
    lines = [json.loads(line) for line in output.text.splitlines()]
    assert [line["custom_id"] for line in lines] == ["a", "b", "c"]
    stored = client.files.retrieve(batch.output_file_id)
    assert stored.purpose == "batch_output"
    assert stored.bytes == len(output.content)
    assert client.files.delete(batch.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id)


def test_files_keep_their_bytes_and_their_name_is_only_data(client: openai.OpenAI, data_folder: Path) -> None:
    names = ["../../etc/passwd", "CON", "a\\b", "naïve 文件.jsonl", "x" * 300]
    for name in names:
        file = client.files.create(file=(name, b"\x00\xffbytes"), purpose="user_data")
        assert client.files.retrieve(file.id).filename == name
        assert client.files.content(file.id).content == b"\x00\xffbytes"
        assert (data_folder / "files" / file.id).read_bytes() == b"\x00\xffbytes"
        assert file.expires_at is None
        client.files.delete(file.id)


def test_expiry_of_files(client: openai.OpenAI, http: httpx2.Client) -> None:
    file = client.files.create(file=("in", content("a")), purpose="batch")
    assert file.expires_at == file.created_at + 30 * 86_400
    file = client.files.create(
        file=("in", content("a")),
        purpose="evals",
        expires_after={"anchor": "created_at", "seconds": 3_600},
    )
    assert file.expires_at == file.created_at + 3_600
    batch = create(
        client,
        upload(client, "a"),
        extra_body={"output_expires_after": {"anchor": "created_at", "seconds": 7_200}},
    )
    output = client.files.retrieve(until_ended(client, batch.id).output_file_id or "")
    assert output.expires_at == output.created_at + 7_200


def test_lists_are_paged(http: httpx2.Client, base_url: str) -> None:
    headers = {"x-test-tenant": "pages"}
    with openai.OpenAI(api_key="k", base_url=f"{base_url}/v1", default_headers=headers) as client:
        files = [upload(client, "a") for _ in range(5)]
        other = client.files.create(file=("x", b"x"), purpose="evals").id
        assert [file.id for file in client.files.list(limit=2, purpose="batch")] == files[::-1]
        assert [file.id for file in client.files.list(limit=2, order="asc")] == [*files, other]
        batches = [create(client, file_id).id for file_id in files]
        assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    page = http.get("/v1/batches", params={"limit": 2, "after": batches[4]}, headers=headers).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (batches[3], batches[2], True)
    last = http.get("/v1/batches", params={"limit": 2, "after": batches[1]}, headers=headers).json()
    assert (last["first_id"], last["last_id"], last["has_more"]) == (batches[0], batches[0], False)
    empty = http.get("/v1/files", params={"purpose": "vision"}, headers=headers).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    for path in ("/v1/files", "/v1/batches"):
        assert error_of(http.get(path, params={"after": "nobody"}), 400)["param"] == "after"
        assert error_of(http.get(path, params={"limit": 0}), 400)["param"] == "limit"
        assert error_of(http.get(path, params={"limit": 10_001}), 400)["param"] == "limit"
    assert error_of(http.get("/v1/files", params={"order": "up"}), 400)["param"] == "order"


def test_cancel(client: openai.OpenAI) -> None:
    batch = create(client, upload(client, "a", "held-1", "held-2"))
    while client.batches.retrieve(batch.id).request_counts.completed != 1:  # type: ignore[union-attr]
        pass
    with pytest.raises(openai.BadRequestError, match=batch.id):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    ended = until_ended(client, batch.id)
    assert ended.status == "cancelled"
    assert ended.output_file_id
    assert ended.error_file_id
    with pytest.raises(openai.BadRequestError, match="already ended"):
        client.batches.cancel(batch.id)
    assert client.files.delete(batch.input_file_id).deleted


def test_a_repeated_create_with_an_idempotency_key_is_one_batch(client: openai.OpenAI) -> None:
    file_id = upload(client, "a")
    headers = {"Idempotency-Key": "once"}
    first = create(client, file_id, extra_headers=headers)
    assert until_ended(client, first.id).status == "completed"
    client.files.delete(file_id)
    assert create(client, file_id, extra_headers=headers).id == first.id
    with pytest.raises(openai.BadRequestError, match="new key"):
        create(client, file_id, extra_headers=headers, metadata={"another": "request"})


def test_one_tenant_cannot_see_the_files_and_batches_of_another(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    batch = until_ended(client, create(client, upload(client, "a")).id)
    other = {"x-test-tenant": "other"}
    for method, path in [
        ("GET", f"/v1/files/{batch.input_file_id}"),
        ("GET", f"/v1/files/{batch.output_file_id}/content"),
        ("DELETE", f"/v1/files/{batch.input_file_id}"),
        ("GET", f"/v1/batches/{batch.id}"),
        ("POST", f"/v1/batches/{batch.id}/cancel"),
    ]:
        error_of(http.request(method, path, headers=other), 404)
    assert http.get("/v1/files", headers=other).json()["data"] == []
    assert http.get("/v1/batches", headers=other).json()["data"] == []
    body = {"input_file_id": batch.input_file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
    assert error_of(http.post("/v1/batches", json=body, headers=other), 400)["param"] == "input_file_id"


@pytest.mark.parametrize("name", ["nobody", "..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "x" * 3_000])
def test_unknown_ids(http: httpx2.Client, name: str) -> None:
    for method, path in [
        ("GET", f"/v1/files/{name}"),
        ("DELETE", f"/v1/files/{name}"),
        ("GET", f"/v1/files/{name}/content"),
        ("GET", f"/v1/batches/{name}"),
        ("POST", f"/v1/batches/{name}/cancel"),
    ]:
        assert http.request(method, path).status_code in (404, 405)
    assert error_of(http.get("/v1/files/nobody"), 404)["param"] == "id"
    assert error_of(http.get("/v1/batches/nobody"), 404)["param"] == "batch_id"


UPLOAD = {"purpose": "batch"}
EXPIRY = {"anchor": "created_at", "seconds": 3_600}
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
BAD_FORMS = {
    "no purpose": ({}, "purpose"),
    "unknown purpose": ({"purpose": "../x"}, "purpose"),
    "output purpose": ({"purpose": "batch_output"}, "purpose"),
    "no anchor": ({**UPLOAD, SECONDS: "3600"}, "expires_after.anchor"),
    "other anchor": ({**UPLOAD, ANCHOR: "now", SECONDS: "3600"}, "expires_after.anchor"),
    "no seconds": ({**UPLOAD, ANCHOR: "created_at"}, "expires_after.seconds"),
    "too soon": ({**UPLOAD, ANCHOR: "created_at", SECONDS: "3599"}, "expires_after.seconds"),
    "too late": ({**UPLOAD, ANCHOR: "created_at", SECONDS: "2592001"}, "expires_after.seconds"),
    "not JSON": ({**UPLOAD, "expires_after": "soon"}, "expires_after"),
    "JSON, and no object": ({**UPLOAD, "expires_after": "3600"}, "expires_after"),
    "JSON, too soon": (
        {**UPLOAD, "expires_after": json.dumps(EXPIRY | {"seconds": 1})},
        "expires_after.seconds",
    ),
    "twice": ({**UPLOAD, "expires_after": json.dumps(EXPIRY), SECONDS: "3600"}, "expires_after"),
    "not a number": ({**UPLOAD, ANCHOR: "created_at", SECONDS: "soon"}, "expires_after.seconds"),
}


@pytest.mark.parametrize(("form", "param"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_bad_uploads(http: httpx2.Client, form: dict[str, str], param: str) -> None:
    response = http.post("/v1/files", data=form, files={"file": ("x", b"x")})
    assert error_of(response, 400)["param"] == param


def test_expiry_as_one_json_field(http: httpx2.Client) -> None:
    form = {**UPLOAD, "expires_after": json.dumps(EXPIRY)}
    made = http.post("/v1/files", data=form, files={"file": ("x", b"x")})
    assert made.json()["expires_at"] == made.json()["created_at"] + 3_600
    assert "x-brim-ignored-fields" not in made.headers


def test_unknown_fields_of_an_upload_are_named_in_a_header(http: httpx2.Client) -> None:
    made = http.post("/v1/files", data={**UPLOAD, "speed": "3", "note": "x"}, files={"file": ("x", b"x")})
    assert made.headers["x-brim-ignored-fields"] == "note, speed"


@pytest.mark.parametrize("charset", ["utf-8", "unicode_escape", "utf-7", "undefined", "punycode", "no-such"])
def test_a_form_is_utf_8_whatever_charset_it_claims(http: httpx2.Client, charset: str) -> None:
    parts = [
        b'content-disposition: form-data; name="purpose"\r\n\r\nuser_data',
        'content-disposition: form-data; name="file"; filename="\\ud800 +2AA- é"\r\n\r\nx'.encode(),
    ]
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    kind = f"multipart/form-data; charset={charset}; boundary=b"
    made = http.post("/v1/files", content=body, headers={"content-type": kind})
    assert made.status_code == 200, made.text
    assert made.json()["filename"] == "\\ud800 +2AA- é"


def test_uploads_that_are_no_form_with_a_file(http: httpx2.Client) -> None:
    assert error_of(http.post("/v1/files", json=UPLOAD), 400)["param"] == "file"
    assert error_of(http.post("/v1/files", data={**UPLOAD, "file": "text"}), 400)["param"] == "file"
    two = [("file", ("a", b"a")), ("file", ("b", b"b"))]
    error_of(http.post("/v1/files", data=UPLOAD, files=two), 400)
    broken = {"content-type": "multipart/form-data; boundary=x"}
    error_of(http.post("/v1/files", content=b"--x\r\nnonsense", headers=broken), 400)


def test_files_that_are_too_large(http: httpx2.Client, data_folder: Path) -> None:
    before = set((data_folder / "files").iterdir())
    exact, over = b"x" * LIMITS.batch_file_bytes, b"x" * (LIMITS.batch_file_bytes + 1)
    assert http.post("/v1/files", data=UPLOAD, files={"file": ("x", exact)}).status_code == 200
    error = error_of(http.post("/v1/files", data=UPLOAD, files={"file": ("x", over)}), 413)
    assert error["code"] == "file_too_large"
    assert http.post("/v1/files", data={"purpose": "evals"}, files={"file": ("x", over)}).status_code == 200
    assert len(set((data_folder / "files").iterdir()) - before) == 2


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_not_read_to_its_end(tmp_path: Path, announced: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        while True:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    async def scenario() -> None:
        app = make_app(tmp_path)
        headers = {"content-type": "multipart/form-data; boundary=x"}
        if announced:
            headers["content-length"] = str(1 << 40)
        received = await call_asgi(app, headers, endless())
        assert received["status"] == 413

    asyncio.run(scenario())
    assert sent <= (0 if announced else LIMITS.file_bytes + (2 << 20))


def test_a_client_that_goes_away_while_uploading_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert asyncio.run(call_asgi(make_app(tmp_path), headers, cut_off()))["status"] == 400
    assert not list(tmp_path.iterdir())
    assert not caplog.records


async def call_asgi(app: FastAPI, headers: dict[str, str], body: AsyncIterator[bytes]) -> dict[str, Any]:
    """POST /v1/files without a client between that would read the body itself."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    started: dict[str, Any] = {}

    async def receive() -> dict[str, Any]:
        async for chunk in body:
            return {"type": "http.request", "body": chunk, "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)

    await app(scope, receive, send)
    return started


BAD_BATCHES = {
    "unknown file": ({"input_file_id": "file-x"}, "input_file_id"),
    "endpoint not served": ({"endpoint": "/v1/embeddings"}, "endpoint"),
    "window in words": ({"completion_window": "a day"}, "completion_window"),
    "no unit": ({"completion_window": "24"}, "completion_window"),
    "no time": ({"completion_window": "0h"}, "completion_window"),
    "much time": ({"completion_window": "99999999999999999999d"}, "completion_window"),
    "window of another type": ({"completion_window": 24}, "completion_window"),
    "a field that is not one": ({"priority": 3}, "priority"),
    "17 pairs": ({"metadata": {str(key): "" for key in range(17)}}, "metadata"),
    "long key": ({"metadata": {"k" * 65: ""}}, None),
    "long value": ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    "number as value": ({"metadata": {"k": 1}}, "metadata.k"),
    "output expiry": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
        "output_expires_after.seconds",
    ),
}


@pytest.mark.parametrize(("changes", "param"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches(
    client: openai.OpenAI, http: httpx2.Client, changes: dict[str, Any], param: str | None
) -> None:
    good = {"input_file_id": upload(client, "a"), "endpoint": ENDPOINT, "completion_window": "24h"}
    body = json.dumps({**good, **changes})
    error = error_of(
        http.post("/v1/batches", content=body, headers={"content-type": "application/json"}), 400
    )
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


def test_more_bad_batches(client: openai.OpenAI, http: httpx2.Client) -> None:
    for name in ("input_file_id", "endpoint", "completion_window"):
        body = {"input_file_id": "f", "endpoint": ENDPOINT, "completion_window": "24h"}
        del body[name]
        error = error_of(http.post("/v1/batches", json=body), 400)
        assert (error["param"], error["code"]) == (name, "missing_required_parameter")
    file = client.files.create(file=("x", content("a")), purpose="evals")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        create(client, file.id)
    error = error_of(
        http.post("/v1/batches", content=b"{", headers={"content-type": "application/json"}), 400
    )
    assert error["code"] == "invalid_json"
    served = error_of(
        http.post("/v1/batches", json={**body, "completion_window": "1h", "endpoint": "/x"}), 400
    )
    assert ENDPOINT in served["message"]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
def test_a_batch_is_made_from_json_whatever_its_content_type(
    client: openai.OpenAI, http: httpx2.Client, content_type: str
) -> None:
    asked = {"input_file_id": upload(client, "a"), "endpoint": ENDPOINT, "completion_window": "24h"}
    headers = {"content-type": content_type}
    assert http.post("/v1/batches", content=json.dumps(asked), headers=headers).status_code == 200


BAD_BODIES = {
    "nothing": (b"", 400, "invalid_json"),
    "a list": (b"[]", 400, "invalid_json"),
    "half a surrogate pair": (b'{"endpoint": "\\ud800"}', 400, "invalid_json"),
    "deep": (b"[" * 99_000, 400, "invalid_json"),
    "large": (b'{"endpoint": "' + b"x" * (1 << 20) + b'"}', 413, "request_too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_bodies_that_make_no_batch(http: httpx2.Client, body: bytes, status: int, code: str) -> None:
    assert error_of(http.post("/v1/batches", content=body), status)["code"] == code


def test_the_description_names_the_body_of_a_batch(http: httpx2.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]["/v1/batches"]["post"]["requestBody"]
    assert "input_file_id" in described["content"]["application/json"]["schema"]["required"]


def test_an_unknown_field_of_a_batch_is_said_to_be_unsupported(http: httpx2.Client) -> None:
    body = {"input_file_id": "f", "endpoint": ENDPOINT, "completion_window": "24h", "priority": 3}
    error = error_of(http.post("/v1/batches", json=body), 400)
    assert (error["code"], error["param"]) == ("unsupported_parameter", "priority")


def test_a_model_that_is_not_served_fails_the_batch(client: openai.OpenAI) -> None:
    lines = content("a").replace(b'"model": "m"', b'"model": "other"')
    file = client.files.create(file=("in", lines), purpose="batch")
    batch = until_ended(client, create(client, file.id).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [("model_not_found", 1)]


def disk_full(*args: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_507_that_clients_do_not_repeat(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileFolder, "write", disk_full)
    response = http.post("/v1/files", data=UPLOAD, files={"file": ("x", b"x")})
    assert error_of(response, 507)["code"] == "disk_full"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("code", "status"), [(sqlite3.SQLITE_FULL, 507), (sqlite3.SQLITE_IOERR, 500)])
def test_a_failing_store_leaves_no_file_behind(
    http: httpx2.Client, data_folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    def failing(*args: Any) -> Any:
        error = sqlite3.OperationalError("the store fails")
        error.sqlite_errorcode = code
        raise error

    before = set((data_folder / "files").iterdir())
    monkeypatch.setattr(store, "add_file", failing)
    error_of(http.post("/v1/files", data=UPLOAD, files={"file": ("x", b"x")}), status)
    assert set((data_folder / "files").iterdir()) == before


def test_a_file_can_be_deleted_though_the_disk_is_full(
    http: httpx2.Client, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = http.post("/v1/files", data=UPLOAD, files={"file": ("x", b"x")}).json()["id"]
    delete_file = store.delete_file

    def full_while_it_is_there(db: sqlite3.Connection, tenant: str, file_id: str) -> None:
        delete_file(db, tenant, file_id)
        if (data_folder / "files" / file_id).exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    monkeypatch.setattr(store, "delete_file", full_while_it_is_there)
    assert http.delete(f"/v1/files/{file_id}").json()["deleted"]
    error_of(http.get(f"/v1/files/{file_id}"), 404)
    error_of(http.delete(f"/v1/files/{file_id}"), 404)
