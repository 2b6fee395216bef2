"""A server that ends while its step hangs, with a batch line in flight."""

import json
from pathlib import Path

import pytest

from brim.batch_api.api import BatchApi
from brim.engines import loop as engine_loop
from brim.server.lines import submit_line
from brim.server.options import ServerOptions
from brim.server.service import OpenAIService
from tests.server.http_harness import HELLO, MODEL, SteppedEngine, running, until

ENDPOINT = "/v1/chat/completions"
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": ENDPOINT,
    "body": {"model": MODEL, "messages": HELLO, "max_tokens": 2},
}


@pytest.mark.parametrize("hangs", [True, False])
def test_a_line_in_a_step_that_hangs_counts_as_at_a_crash(
    tmp_path: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def batch_api(service: OpenAIService) -> BatchApi:
        async def submit(line):
            return await submit_line(service, line)

        return BatchApi(tmp_path, submit)

    engine = SteppedEngine()
    options = ServerOptions(shutdown_timeout_seconds=0)
    with monkeypatch.context() as patched:
        patched.setattr(engine_loop, "CLOSE_SECONDS", 0.05 if hangs else 30)
        with running(engine, server_options=options, batch_api=batch_api) as run:
            client = run.openai()
            file = client.files.create(file=("in.jsonl", json.dumps(LINE).encode()), purpose="batch")
            job = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
            until(lambda: run.loop.stats().num_running == 1)
            run.server.handle_exit(15, None)
            if not hangs:
                until(lambda: run.loop._close_by is not None)  # the time for answers is over
                engine.free()
            run.thread.join()
            engine.free()
            run.loop._thread.join()  # the harness closes the loop again
    with running(batch_api=batch_api) as run:
        client = run.openai()
        until(lambda: client.batches.retrieve(job.id).status == "completed")
    assert ("up to 1 batch lines in flight" in caplog.text) is hangs
