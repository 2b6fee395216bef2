"""The simulator against a real engine on this machine: it is measured, predicted from that, and run.

    OMP_NUM_THREADS=1 python -m benchmarks.engine_fidelity --engine local [--page docs/fidelity.md]
    OMP_NUM_THREADS=1 python -m benchmarks.engine_fidelity --engine vllm [--page docs/fidelity.md]

A model of 25M parameters with random weights on the CPU: its profile is measured as by `brim profile
measure`, then it serves. First chats alone, first come first served; then the same chats beside a backlog of
documents, first come first served too, and under the policy `brim` with targets of twice the p99 that the
chats are predicted to have alone. Chats are Poisson at half of the rate that keeps the engine busy one by
one.

With `--clock processor` the engine runs step by step in this process, and its processor's time is what
counts: idle time is jumped over, and who else uses the machine shows only in how fast steps are. With
`--clock wall` it is `brim serve` over HTTP in real time, driven as by `brim profile check`; that needs a
quiet machine.
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
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.fidelity_in_process import InProcess, opened
from tests.e2e.test_vllm_server import environment
from tests.plugins.vllm import models

from brim.cli.simulation_options import Options
from brim.core.request import TaskClass
from brim.profiles.loader import Profile, load
from brim.profiling.against_server import check, table
from brim.profiling.engine_steps import QUICK
from brim.profiling.fidelity import ENGINE, with_section
from brim.profiling.load_client import Client
from brim.simulation.run import Setup, simulate
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest, merged

BUSY = 0.5  # times the rate at which chats one by one would keep the engine busy
CHAT, ANSWER = (30, 90), (20, 40)  # tokens, from and to
DOCUMENT, QUESTION, OFFLINE_ANSWER, SHARING = 320, 40, 32, 8  # tokens; so many lines ask about a document
WAITED_FOR = 4  # of so many lines one is there first come first served: chats wait for all of them
BLOCK = 32
SETTLE_SECONDS = 3.0  # before the first request that counts
START_SECONDS = 300
SIZES = {"block_size": BLOCK, "max_model_len": 1024, "max_num_seqs": 32, "max_num_batched_tokens": 256}
LIMITS = [part for name, value in SIZES.items() for part in (f"--{name.replace('_', '-')}", str(value))]
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


class OverHttp:
    """A server with one engine, in a folder of its own."""

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
        self, trace: Trace, make: Callable[[], Setup], profile: Profile, targets: Mapping[str, float]
    ) -> list[str]:
        policy = make().config.policy
        headers = {f"x-slo-{name.partition('_')[0]}-ms": str(value) for name, value in targets.items()}
        with self.server("stock" if policy == "vllm" and "vllm" in self._flags else policy) as url:
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
        **SIZES,
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


def section(bench: OverHttp | InProcess, seconds: float, lines: int) -> Iterator[str]:
    profile = bench.measure()
    assert profile.fit is not None
    yield f"{profile.source}; {date.today().isoformat()}. The profile's error on sizes held back:"
    kinds = ", ".join(f"{kind} {errors.mape:.1%}" for kind, errors in profile.fit.by_kind.items())
    yield f"{profile.fit.held_back.mape:.1%} ({kinds}). {profile.notes[0]}"
    online = chats(rate_of(profile), seconds)
    targets = targets_of(profile, online)
    some, all_day = (merged(online, backlog(count)) for count in (lines // WAITED_FOR, lines))

    def run(what: str, trace: Trace, policy: str, **told: float) -> str:
        print(f"{what} ...", file=sys.stderr, flush=True)
        found = bench.compare(trace, lambda: setup_of(profile, online, policy, **told), profile, told)
        return "\n".join([f"\n### {what}\n", *found])

    yield run("Chats alone, first come first served", online, "vllm")
    yield run("The same chats beside a backlog, first come first served", some, "vllm")
    yield run("The same chats beside a backlog, policy `brim`", all_day, "brim", **targets)
    yield "\nTargets: TTFT {ttft_ms:g} ms, ITL {itl_ms:g} ms.".format(**targets)


def targets_of(profile: Profile, online: Trace) -> dict[str, float]:
    """Twice the p99 that chats are predicted to have alone, in milliseconds."""
    setup = replace(setup_of(profile, online, "vllm"), exact=True)
    metrics = simulate(online, setup).by_class[TaskClass.ONLINE]
    (ttft,), (itl,) = metrics.ttft_seconds.percentiles([0.99]), metrics.itl_seconds.percentiles([0.99])
    assert ttft is not None
    assert itl is not None
    return {"ttft_ms": round(2e3 * ttft, 1), "itl_ms": round(2e3 * itl, 1)}


def bench_of(asked: argparse.Namespace, folder: Path) -> AbstractContextManager[OverHttp | InProcess]:
    model = "tiny" if asked.quick else asked.model
    if asked.clock == "wall":
        return contextlib.nullcontext(OverHttp(asked.engine, model, folder, asked.quick))
    grid = replace(QUICK, repeats=2) if asked.quick else QUICK
    return opened(asked.engine, model, folder, grid, KV_BLOCKS, SIZES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=sorted(OWN), required=True)
    parser.add_argument("--clock", choices=["processor", "wall"], default="processor", help="what time is")
    parser.add_argument("--seconds", type=float, default=75.0, help="of chats, in each run")
    parser.add_argument("--lines", type=int, default=600, help="of the backlog; it should outlast the chats")
    parser.add_argument("--model", default="25m", help="tiny, 25m or 120m")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--page", type=Path, help="the page to write the section into; else it is printed")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seconds = (8.0 if asked.clock == "wall" else 1.0) if asked.quick else asked.seconds
    with tempfile.TemporaryDirectory() as folder, bench_of(asked, Path(folder)) as bench:
        found = "\n".join([f"{ENGINE}{asked.engine}\n", *section(bench, seconds, asked.lines)])
    if asked.page is None:
        print(found)
    else:
        asked.page.write_text(with_section(asked.page.read_text(), found))


if __name__ == "__main__":
    main()
