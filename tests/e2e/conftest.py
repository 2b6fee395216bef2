"""`brim serve` in a process of its own, and what transformers itself would answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the local engine is not installed (pip install 'brim[local]')")

KV_TOKENS = 16_384


class ServerProcess:
    """`brim serve` on a free port; its data and cache lie under `folder`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._command = [sys.executable, "-m", "brim.cli.main", "serve", "--json", "--port", "0", *flags]
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BRIM_")},
            "XDG_CACHE_HOME": str(folder / "cache"),
            "BRIM_DATA_FOLDER": str(folder / "data"),
            "BRIM_KV_TOKENS": str(KV_TOKENS),
            "BRIM_DTYPE": "float32",  # else a processor that has bfloat16 answers a little differently
            "OMP_NUM_THREADS": "1",
        }
        self._log = folder / "server.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, f"brim serve ended:\n{self._log.read_text()}"
        self.facts: dict[str, Any] = json.loads(first)
        self.address = self.facts["address"]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def log(self) -> str:
        return self._log.read_text()

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(*flags: str) -> ServerProcess:
        servers.append(ServerProcess(tmp_path, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """The greedy answer of the built-in model to one user message, by transformers' own `generate`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from brim.engines.local import builtin

    folder = builtin.ensure(tmp_path_factory.mktemp("reference"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(text: str, max_tokens: int) -> str:
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
        new = output[0, prompt["input_ids"].shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True)

    return answer
