"""The simulator against a real engine on this machine: it is measured, predicted from that, and run.

    OMP_NUM_THREADS=1 python -m benchmarks.engine_fidelity --engine local [--page docs/fidelity.md]
    OMP_NUM_THREADS=1 python -m benchmarks.engine_fidelity --engine vllm [--page docs/fidelity.md]

A model of 25M parameters with random weights on the CPU: `brim profile measure`, then `brim serve` with that
engine, twice, driven as by `brim profile check`. First chats alone, first come first served; then the same
chats beside a backlog of documents, under the policy `brim` with targets of twice the p99 that the chats are
predicted to have alone. Chats are Poisson at half of the rate that keeps the engine busy one by one. About 7
minutes; needs a quiet machine: the times are real.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from tests.e2e.test_vllm_server import environment
from tests.plugins.vllm import models

from brim.cli.simulation_options import Options
from brim.core.request import TaskClass
from brim.profiles.loader import Profile, load
from brim.profiling.against_server import check, table
from brim.profiling.fidelity import ENGINE, with_section
from brim.profiling.load_client import Client
from brim.simulation.run import Setup, simulate
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest, merged

BUSY = 0.5  # times the rate at which chats one by one would keep the engine busy
CHAT, ANSWER = (30, 90), (20, 40)  # tokens, from and to
DOCUMENT, QUESTION, OFFLINE_ANSWER, SHARING = 320, 40, 32, 8  # tokens; so many lines ask about a document
BLOCK = 32
SETTLE_SECONDS = 3.0  # before the first request that counts
START_SECONDS = 300
LIMITS = ["--block-size", str(BLOCK), "--max-model-len", "1024", "--max-num-seqs", "32"]
LIMITS += ["--max-num-batched-tokens", "256"]
KV_BLOCKS = 512
OWN = {
    "local": ["--kv-tokens", str(KV_BLOCKS * BLOCK), "--threads", "1"],
    "vllm": ["--engine", "vllm", "--", "--enforce-eager", "--num-gpu-blocks-override", str(KV_BLOCKS)],
}


def chats(rate: float, seconds: float) -> Trace:
    rng, at, made = random.Random(5), SETTLE_SECONDS, []
    while (at := at + rng.expovariate(rate)) < SETTLE_SECONDS + seconds:
        made.append(TraceRequest(round(at * NANOSECONDS), rng.randint(*CHAT), rng.randint(*ANSWER)))
    return Trace("chats", made, block_tokens=BLOCK)


def backlog(lines: int) -> Trace:
    """In mixed order: lines that share a document begin alike."""
    documents = [number for number in range(-(-lines // SHARING)) for _ in range(SHARING)]
    random.Random(6).shuffle(documents)
    blocks = DOCUMENT // BLOCK
    asked = [
        TraceRequest(
            0,
            DOCUMENT + QUESTION,
            OFFLINE_ANSWER,
            TaskClass.OFFLINE,
            block_ids=tuple(range(blocks * each, blocks * (each + 1))),
        )
        for each in documents[:lines]
    ]
    return Trace("documents", asked, block_tokens=BLOCK)


class Bench:
    """One engine, in a folder of its own."""

    def __init__(self, engine: str, model: str, folder: Path, quick: bool) -> None:
        self._flags = ["--dtype", "float32", *LIMITS, *OWN[engine]]
        self._model = str(models.ensure(model))
        self._folder, self._profile = folder, folder / "measured.json"
        self._environment = environment(folder)
        self._grid = ["--quick", *(["--repeats", "2"] if quick else [])]

    def measure(self) -> Profile:
        self._brim("profile", "measure", self._model, "-o", str(self._profile), *self._grid, *self._flags)
        return load(self._profile)

    @contextlib.contextmanager
    def server(self, policy: str) -> Iterator[str]:
        """Its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = ["--port", str(port), "--policy", policy, "--profile", str(self._profile), *self._flags]
        command = ["serve", self._model, *flags]
        with (self._folder / "server.log").open("ab") as log:
            process = subprocess.Popen(self._command(*command), env=self._environment, stdout=log, stderr=log)
        try:
            self._wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)

    def compare(
        self, trace: Trace, make: Callable[[], Setup], policy: str, headers: Mapping[str, str]
    ) -> list[str]:
        served = "stock" if policy == "vllm" and "vllm" in self._flags else policy
        with self.server(served) as url:
            return table(check(Client(url, headers=headers), trace, make))

    def _wait(self, url: str, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                return
            time.sleep(0.5)
        raise SystemExit((self._folder / "server.log").read_text()[-4000:])

    def _brim(self, *arguments: str) -> None:
        print(f"brim {' '.join(arguments[:2])} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            self._command(*arguments), env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)

    def _command(self, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-m", "brim.cli.main", *arguments]


def setup_of(profile: Profile, trace: Trace, policy: str, **targets: float) -> Setup:
    options = Options(
        trace_file=Path(trace.name),
        profile=profile.name,
        block_size=BLOCK,
        max_model_len=1024,
        max_num_seqs=32,
        max_num_batched_tokens=256,
        enable_prefix_caching=True,
        measure_from=SETTLE_SECONDS,
        measure_until=max(each.arrival_ns for each in trace.requests) / NANOSECONDS,
        **targets,
    )
    return options.setup(trace, profile, policy)


def rate_of(profile: Profile) -> float:
    """At which chats, one by one, would be busy for `BUSY` of the time."""
    alone = chats(0.02, 1000.0)
    setup = setup_of(profile, alone, "vllm")
    mean = simulate(alone, replace(setup, exact=True)).by_class[TaskClass.ONLINE].e2e_seconds.mean
    assert mean is not None
    return BUSY / mean


def section(bench: Bench, seconds: float, lines: int) -> Iterator[str]:
    profile = bench.measure()
    assert profile.fit is not None
    yield f"{profile.source}; {date.today().isoformat()}. The profile's error on sizes held back:"
    kinds = ", ".join(f"{kind} {errors.mape:.1%}" for kind, errors in profile.fit.by_kind.items())
    yield f"{profile.fit.held_back.mape:.1%} ({kinds}). {profile.notes[0]}"
    online = chats(rate_of(profile), seconds)
    yield f"\n### Chats alone, first come first served\n\n{len(online)} chats.\n"
    yield "\n".join(bench.compare(online, lambda: setup_of(profile, online, "vllm"), "vllm", {}))
    metrics = simulate(online, replace(setup_of(profile, online, "vllm"), exact=True)).by_class[
        TaskClass.ONLINE
    ]
    (ttft,), (itl,) = metrics.ttft_seconds.percentiles([0.99]), metrics.itl_seconds.percentiles([0.99])
    assert ttft is not None
    assert itl is not None
    targets = {"ttft_ms": round(2e3 * ttft), "itl_ms": round(2e3 * itl)}
    told = "Targets: TTFT {ttft_ms} ms, ITL {itl_ms} ms".format(**targets)
    both = merged(online, backlog(lines))
    headers = {f"x-slo-{name.partition('_')[0]}-ms": str(value) for name, value in targets.items()}
    yield f"\n### The same chats beside a backlog, policy `brim`\n\n{told}.\n"
    yield "\n".join(
        bench.compare(both, lambda: setup_of(profile, online, "brim", **targets), "brim", headers)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=sorted(OWN), required=True)
    parser.add_argument("--seconds", type=float, default=75.0, help="of chats, in each of two runs")
    parser.add_argument("--lines", type=int, default=600, help="of the backlog; it should outlast the chats")
    parser.add_argument("--model", default="25m", help="tiny, 25m or 120m")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--page", type=Path, help="the page to write the section into; else it is printed")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seconds = 8.0 if asked.quick else asked.seconds
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked.engine, "tiny" if asked.quick else asked.model, Path(folder), asked.quick)
        found = "\n".join([f"{ENGINE}{asked.engine}\n", *section(bench, seconds, asked.lines)])
    if asked.page is None:
        print(found)
    else:
        asked.page.write_text(with_section(asked.page.read_text(), found))


if __name__ == "__main__":
    main()
