"""Real engines on this machine's CPU: vLLM in this process, and vLLM's own server in processes of its own."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.plugins.vllm import classes, models

READY_SECONDS = 300
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "INFO",  # tests read the log
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Host:
    """How a vLLM is started; `scheduler` is `module:Class`, and the model one that `models.ensure` knows."""

    scheduler: str = classes.STOCK
    num_blocks: int = 64
    model: str = "tiny"
    asynchronous: bool = False
    additional_config: Mapping[str, Any] = field(default_factory=dict)
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    max_model_len: int = 512
    changes: Mapping[str, Any] = field(default_factory=dict)  # engine arguments as vLLM names them

    def arguments(self) -> dict[str, Any]:
        """vLLM's engine arguments."""
        return {
            "model": str(models.ensure(self.model)),
            "scheduler_cls": self.scheduler.replace(":", "."),
            "additional_config": dict(self.additional_config),
            "async_scheduling": self.asynchronous,
            "block_size": 32,
            "num_gpu_blocks_override": self.num_blocks,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_model_len": self.max_model_len,
            "dtype": "float32",
            "enforce_eager": True,
            "seed": 0,
            **self.changes,
        }


@dataclass(frozen=True)
class Ask:
    """One request of a workload: a prompt in token ids, and what Brim is told of it."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    adapter: int = 0  # of `models.adapter`, in this process only; 0 means none
    allowed: tuple[int, ...] = ()  # tokens of the answer; empty: all

    def completion(self) -> dict[str, Any]:
        """The body for `/v1/completions`."""
        body = {"model": "tiny", "prompt": list(self.prompt_token_ids), "max_tokens": self.max_tokens}
        body |= {"temperature": 0.0, "ignore_eos": True, "return_token_ids": True}
        body |= {"allowed_token_ids": list(self.allowed)} if self.allowed else {}
        return body | ({"vllm_xargs": dict(self.facts)} if self.facts else {})


@contextmanager
def engine(host: Host, **more: Any) -> Iterator[Any]:
    """An `LLM` with everything in this process, so that a test can reach its scheduler."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    environment = patch.dict(os.environ, {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"})
    with environment, classes.async_on_cpu() if host.asynchronous else nullcontext():
        llm = LLM(**host.arguments(), disable_log_stats=True, **more)
        try:
            yield llm
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()
            cleanup_dist_env_and_memory()


def scheduler_of(llm: Any) -> Any:
    """The scheduler inside an `engine`."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def generate(llm: Any, asks: Sequence[Ask]) -> list[list[int]]:
    """The greedy answers in token ids; all are asked for at once."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    sampling = [
        SamplingParams(
            temperature=0.0,
            max_tokens=ask.max_tokens,
            ignore_eos=True,
            allowed_token_ids=list(ask.allowed) or None,
            extra_args=dict(ask.facts) or None,
        )
        for ask in asks
    ]
    prompts = [{"prompt_token_ids": list(ask.prompt_token_ids)} for ask in asks]
    adapters = [
        LoRARequest(f"adapter {ask.adapter}", ask.adapter, str(models.adapter(ask.adapter)))
        if ask.adapter
        else None
        for ask in asks
    ]
    answers = llm.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
    return [list(done.outputs[0].token_ids) for done in answers]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def started(host: Host, log: Path, *flags: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A vLLM of its own processes, ended with all of them."""
    repository = Path(__file__).parents[3]
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.plugins.vllm.serve", *command_line(host), *flags],
            env={**os.environ, **ENVIRONMENT, **environment, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=written,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Server:
    """vLLM's OpenAI server on a free port of this machine. A context manager; its log lies under `folder`."""

    def __init__(self, host: Host, folder: Path, *flags: str, **environment: str) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / f"vllm-{port}.log"
        place = ("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port))
        self._started = started(host, self.log, *place, *flags, **environment)

    def __enter__(self) -> Server:
        self._process = self._started.__enter__()
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._started.__exit__(None, None, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a JSON body. Raises `urllib.error.HTTPError` for an error status."""
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
            return json.load(answer)

    def generate(self, asks: Sequence[Ask]) -> list[list[int]]:
        """The greedy answers in token ids; all are asked for at once."""
        with ThreadPoolExecutor(len(asks)) as pool:
            answers = pool.map(lambda ask: self.post("/v1/completions", ask.completion()), asks)
            return [answer["choices"][0]["token_ids"] for answer in answers]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return answer.read().decode()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"vLLM's server did not get ready:\n{self.log.read_text()[-4000:]}")


def command_line(host: Host) -> list[str]:
    """The flags of `vllm serve` that start this host."""
    flags = []
    for name, value in host.arguments().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags
