"""Clients that download a file slowly, or not at all."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brim.batch_api.api import BatchApi
from brim.server import connections
from tests.server.http_harness import Running, running, until

BYTES = 20_000_000  # more than a socket holds


@contextmanager
def _asked(
    folder: Path, write_timeout_seconds: float, *headers: str
) -> Iterator[tuple[Running, socket.socket]]:
    """A connection on which a file was asked for."""

    async def submit(line):
        raise AssertionError

    def batch_api(_) -> BatchApi:
        return BatchApi(folder, submit, write_timeout_seconds=write_timeout_seconds)

    with running(batch_api=batch_api) as run:
        upload = {"file": ("x", b"a" * BYTES)}
        sent = run.http().post("/v1/files", data={"purpose": "user_data"}, files=upload, timeout=30)
        run.clients.pop().close()
        until(lambda: not run.server.server_state.connections)
        host, port = run.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            head = [f"GET /v1/files/{sent.json()['id']}/content HTTP/1.1", "host: brim", *headers, "", ""]
            client.sendall("\r\n".join(head).encode())
            yield run, client


@pytest.mark.parametrize("headers", [(), ("range: bytes=1-",)], ids=["whole", "a range"])
def test_a_reader_that_takes_nothing_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...]
) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.1)
    with _asked(tmp_path, 0.1, *headers) as (run, client):
        assert client.recv(9) == b"HTTP/1.1 "
        until(lambda: not run.server.server_state.connections)
        assert not run.server.server_state.tasks


def test_a_reader_that_is_slow_gets_all_of_it(tmp_path: Path) -> None:
    with _asked(tmp_path, 10, "connection: close") as (_, client):
        size = 0
        while piece := client.recv(1_000_000):
            size += len(piece)
            time.sleep(0.05)
    assert size > BYTES
