"""Load clients that others wrote, beside a batch job: no request fails, and every token asked for is counted.

They have environments of their own (see docs/measurements.md): what is not on the PATH is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_vllm_server import VllmServer, begin, finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REQUESTS, OUTPUT_TOKENS, LINES = 20, 24, 200


def guidellm(address: str, tokenizer: Path, folder: Path) -> tuple[list[str], Callable[[], dict[str, Any]]]:
    backend = {"kind": "openai_http", "target": address, "extras": {"headers": {"x-slo-ttft-ms": "900"}}}
    command = [
        *("guidellm", "run", "--backend", json.dumps(backend), "--disable-console"),
        *("--tokenizer", f"kind=hf_auto,model={tokenizer}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={OUTPUT_TOKENS}"),
        *("--profile", "kind=poisson,rate=4", "--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--output", f"kind=json,path={folder / 'guidellm.json'}"),
    ]

    def told() -> dict[str, Any]:
        (run,) = json.loads((folder / "guidellm.json").read_text())["benchmarks"]
        totals, tokens = run["metrics"]["request_totals"], run["metrics"]["output_token_count"]
        return {
            "completed": totals["successful"],
            "failed": totals["errored"] + totals["incomplete"],
            "output_tokens": tokens["successful"]["total_sum"],
        }

    return command, told


def aiperf(address: str, tokenizer: Path, folder: Path) -> tuple[list[str], Callable[[], dict[str, Any]]]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
    command = [
        *("aiperf", "profile", "--model", model, "--url", address, "--endpoint-type", "chat", "--streaming"),
        *("--tokenizer", str(tokenizer), "--use-server-token-count", "--extra-inputs", "ignore_eos:true"),
        *("--request-rate", "4", "--request-count", str(REQUESTS), "--synthetic-input-tokens-mean", "64"),
        *("--output-tokens-mean", str(OUTPUT_TOKENS), "--ui", "none", "--artifact-dir", str(folder)),
    ]

    def told() -> dict[str, Any]:
        run = json.loads((folder / "profile_export_aiperf.json").read_text())
        return {
            "completed": run["request_count"]["avg"],
            "failed": sum(error["count"] for error in run["error_summary"]),
            "output_tokens": run["total_usage_completion_tokens"]["avg"],
        }

    return command, told


@pytest.fixture(params=[guidellm, aiperf])
def client(request: pytest.FixtureRequest) -> Any:
    name = request.param.__name__
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not on the PATH (pip install {name})")
    return request.param


@pytest.fixture(params=["local", "vllm"])
def address(request: pytest.FixtureRequest, client: Any, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        server: Any = request.getfixturevalue("serve")("--ttft-ms", "900", "--tpot-ms", "200")
    elif importlib.util.find_spec("vllm"):
        server = VllmServer(tmp_path)
    else:
        pytest.skip("vLLM is not installed: brim[vllm]")
    yield server.address
    server.kill()


def test_a_load_client_beside_a_batch(client: Any, address: str, tmp_path: Path) -> None:
    from brim.engines.local import builtin

    command, told = client(address, builtin.ensure(tmp_path / "models"), tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as asked:
        model = asked.models.list().data[0].id
        line = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 32}
        batch_id = begin(asked, *[line | {"seed": seed} for seed in range(LINES)])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        counts = finished(asked, batch_id).request_counts
    assert told() == {"completed": REQUESTS, "failed": 0, "output_tokens": REQUESTS * OUTPUT_TOKENS}
    assert counts.model_dump() == {"total": LINES, "completed": LINES, "failed": 0}
