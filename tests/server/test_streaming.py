"""What can happen to an open stream: failures, silence, slow readers, readers that leave."""

import asyncio
import json

import openai
import pytest

from brim.core.request import FinishReason, TaskClass
from brim.engines.scripted import ByteTokenizer, ScriptedEngine, echo_script
from brim.server.answers import ChatForm, CompletionForm
from brim.server.choice import Piece
from brim.server.generation import Generation
from brim.server.options import ServerOptions
from brim.server.schemas import StreamOptions
from brim.server.sse import ChunkWriter, EventStream
from tests.server.http_harness import HELLO, MODEL, Running, SteppedEngine, running, until


def _fails_after(num_tokens: int):
    def script(token_ids):
        if len(token_ids) >= num_tokens:
            raise RuntimeError("this step is broken")
        return echo_script(token_ids)

    return script


def _finished(run: Running) -> dict[FinishReason, int]:
    return dict(run.loop.metrics.by_class[TaskClass.ONLINE].finished)


def _events(lines) -> list[str]:
    return [line.removeprefix("data: ") for line in lines if line]


def test_the_bytes_of_a_stream(server: Running) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 2, "stream": True}
    answer = server.http().post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "mi"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("continuous", [True, False])
def test_a_token_without_text_is_told_where_every_chunk_tells_usage(continuous: bool) -> None:
    form = CompletionForm(ByteTokenizer(), logprobs=False)
    options = StreamOptions(include_usage=True, continuous_usage_stats=continuous)
    writer = ChunkWriter(Generation([], form, {}, prompt_tokens=7, n=1), options)
    written = writer.chunks(Piece(0, "", (), None))
    assert bool(written) == continuous
    assert (b'"prompt_tokens":7' in written) == continuous


@pytest.mark.parametrize("form", [ChatForm, CompletionForm])
@pytest.mark.parametrize("include_usage", [True, False])
def test_the_short_way_of_writing_a_chunk_gives_what_the_long_way_gives(form, include_usage: bool) -> None:
    form = form(ByteTokenizer(), logprobs=False)
    head = {
        "id": "x",
        "object": "",
        "created": 1,
        "model": 'a"b',
        "system_fingerprint": "f",
        "service_tier": "d",
    }
    writer = ChunkWriter(
        Generation([], form, head, prompt_tokens=0, n=1), StreamOptions(include_usage=include_usage)
    )
    piece = Piece(3, 'line\n"é😀', (), None)
    writer.chunks(piece)
    written = json.loads(writer.chunks(piece).removeprefix(b"data: "))
    usage = {"usage": None} if include_usage else {}
    assert written == {**head, "object": form.chunk_object, "choices": [form.chunk(piece)], **usage}


def test_failure_before_the_first_token_is_a_500() -> None:
    with running(ScriptedEngine(script=_fails_after(0))) as run:
        with pytest.raises(openai.InternalServerError) as caught:
            run.openai().chat.completions.create(model=MODEL, messages=HELLO)
        assert caught.value.body["type"] == "server_error"


def test_failure_in_mid_stream_is_an_error_event() -> None:
    with running(ScriptedEngine(script=_fails_after(8))) as run:
        stream = run.openai().completions.create(model=MODEL, prompt="abcd", max_tokens=9, stream=True)
        texts = []
        with stream, pytest.raises(openai.APIError, match="see the server's log") as caught:
            texts.extend(chunk.choices[0].text for chunk in stream)
        assert "broken" not in str(caught.value)
        assert len("".join(texts)) == 4


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_requests(stream: bool, n: int) -> None:
    engine = SteppedEngine()
    with running(engine) as run:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 4000, "stream": stream, "n": n}
        if stream:
            engine.allowed.release(3)
            with run.http().stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            _post_and_hang_up(run.url, body)
        until(lambda: len(run.loop.aborted) == n)
        engine.allowed.release(2)
        until(lambda: _finished(run) == {FinishReason.ABORT: n})
        assert run.loop.stats().num_running == 0


def _post_and_hang_up(url: str, body: dict) -> None:
    async def post() -> None:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        await asyncio.sleep(0.05)  # so that it is read before the connection ends
        writer.close()
        await writer.wait_closed()

    asyncio.run(post())


def test_silence_is_filled_with_comments() -> None:
    engine = SteppedEngine()
    with running(engine, server_options=ServerOptions(comment_seconds=0.01)) as run:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 3, "stream": True}
        with run.http().stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            comments = [line for line in (next(lines) for _ in range(6)) if line]
            engine.free()
            rest = _events(line for line in lines if not line.startswith(":"))
    assert comments == [": keep-alive"] * 3
    assert rest[-1] == "[DONE]"


class _Endless(Generation):
    """The same piece for ever."""

    def __init__(self) -> None:
        super().__init__([], CompletionForm(ByteTokenizer(), logprobs=False), {}, prompt_tokens=0, n=1)
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    async def pieces(self):
        while True:
            yield Piece(0, "text", (), None)


@pytest.mark.parametrize("comment_seconds", [60, 0.001])
def test_a_reader_that_takes_nothing_is_dropped(comment_seconds: float) -> None:
    sent = []

    async def receive() -> dict:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict) -> None:
        if len(sent) == 3:
            await asyncio.Event().wait()
        sent.append(message)

    async def stream() -> None:
        generation = _Endless()
        options = {"comment_seconds": comment_seconds, "write_timeout_seconds": 0.01}
        await EventStream(generation, StreamOptions(), **options)({}, receive, send)
        assert generation.aborted

    asyncio.run(stream())
    assert len(sent) == 3
