"""Clients that send too much of a head, or not the rest of it."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from brim.server import connections
from brim.server.options import ServerOptions
from tests.server.http_harness import HELLO, MODEL, Running, SteppedEngine, running, until

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: brim\r\n"


@contextlib.contextmanager
def _connected(run: Running) -> Iterator[socket.socket]:
    host, port = run.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        yield client


def _rest(client: socket.socket) -> bytes:
    """Everything until the server closes the connection; TimeoutError where it does not."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # it closed with bytes of ours unread
        while piece := client.recv(65_536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"GET /health HTTP/1.1\r\nx: ", b"a"),
        (b"GET /health HTTP/1.1\r\n", b"name: value\r\n"),
        (b"GET /", b"a"),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"name: value\r\n"),
        (POST + b"transfer-encoding: chunked\r\n\r\n1;", b"a"),
    ],
    ids=["one header", "many headers", "the path", "trailers", "a chunk's extension"],
)
def test_a_head_without_an_end_is_not_read_on(server: Running, beginning: bytes, more: bytes) -> None:
    with _connected(server) as client:
        client.sendall(beginning)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                client.sendall(more * (16_384 // len(more)))
        answer = _rest(client)
    assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer
    assert server.http().get("/health").status_code == 200


def test_a_head_of_the_usual_size_is_read(server: Running) -> None:
    headers = {f"x-{number}": "a" * 1000 for number in range(30)}
    assert server.http(headers=headers).get("/health").status_code == 200


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /health HT",
        POST + b"content-length: 100\r\n\r\n",
        POST + b'content-length: 100\r\n\r\n{"model": ',
        b"GET /health HTTP/1.1\r\nhost: brim\r\n\r\nGET /health HT",
    ],
    ids=["nothing", "half a head", "no body", "half a body", "half of a second request"],
)
def test_a_client_that_falls_silent_is_dropped(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.05)
    with running() as run, _connected(run) as client:
        client.sendall(beginning)
        answer = _rest(client)
        until(lambda: not run.server.server_state.connections)
    assert answer.startswith(b"HTTP/1.1 200 ") == beginning.startswith(b"GET /health HTTP/1.1")


GET = b"GET /health HTTP/1.1\r\nhost: brim\r\n\r\n"


def test_an_idle_connection_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.05)
    with running() as run, _connected(run) as client:
        for _ in range(2):
            client.sendall(GET)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.3)  # several times what a client may be silent in the midst of a request
        assert run.server.config.timeout_keep_alive == 75


@pytest.mark.parametrize("silence_seconds", [0.05, 60])
def test_an_idle_connection_is_closed_at_last(
    monkeypatch: pytest.MonkeyPatch, silence_seconds: float
) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", silence_seconds)
    after = b"\r\n" if silence_seconds < 1 else b""  # a blank line ends the keep-alive timer
    with running(server_options=ServerOptions(keep_alive_seconds=1)) as run, _connected(run) as client:
        client.sendall(GET)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(after)
        assert _rest(client) == b""


def test_a_head_that_trickles_in_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.05)
    with running() as run, _connected(run) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(b"a")
                time.sleep(0.005)


async def _dropped(scope: Scope, receive: Receive, send: Send) -> None:
    """An answer that is given up because its reader takes nothing more, as a stream is."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await send({"type": "http.response.body", "body": b"a" * 1_000_000, "more_body": True})


def test_a_reader_that_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.1)
    with running() as run, _connected(run) as client:
        run.app.mount("/dropped", _dropped)
        client.sendall(GET.replace(b"/health", b"/dropped/"))
        until(lambda: run.server.server_state.connections)
        until(lambda: not run.server.server_state.connections)


def test_a_reader_that_is_slow_gets_all_of_a_closed_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 2.0)
    with running() as run, _connected(run) as client:
        run.app.mount("/long", Response(b"a" * 20_000_000))
        client.sendall(GET.replace(b"/health", b"/long/").replace(b"host", b"connection: close\r\nhost"))
        size = 0
        while piece := client.recv(1_000_000):
            size += len(piece)
            time.sleep(0.05)
    assert size > 20_000_000


def test_a_client_that_waits_for_its_answer_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.02)
    engine = SteppedEngine()
    with running(engine) as run:
        threading.Timer(0.3, engine.free).start()
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 2}
        assert run.http().post("/v1/chat/completions", json=body, timeout=20).status_code == 200
