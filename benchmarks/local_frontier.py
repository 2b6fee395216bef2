"""Interactive and batch requests on one engine: how much offline work each policy does at which latencies.

    OMP_NUM_THREADS=1 python -m benchmarks.local_frontier [--load 0.45] [--rounds 3] [--seconds 6]

A small model with random weights runs on the local engine's CPU path, through the same loop as `brim serve`.
Online requests are a Poisson stream at `--load`, the share of time that they alone keep the engine busy;
offline requests are a backlog of 200 that begin with the same 500 tokens. Online requests alone, measured
first, set the targets: 1.5, 2 and 4 times their p99 of TTFT and of ITL. Then the contenders take turns, a
slice each, on a fresh scheduler and the same requests, `--rounds` times. What came in the first seconds of a
slice does not count. Policies that estimate step times keep what they have learnt, as in a server that runs
for long, and have one slice to learn before the first round. Latencies and tokens per second are medians over
the rounds; attainment, the share of online requests within all their targets, is of all rounds together.

With `--clock processor` the engine is run step by step without the loop's thread, and its processor's time
counts: on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.clocks import ProcessorClock
from benchmarks.frontier_figures import (
    OFFLINE,
    ONLINE,
    SCALES,
    SECOND,
    Contender,
    Line,
    Slice,
    figures,
    show,
    summed_up,
)
from benchmarks.in_process import Arrival, LocalEngine, drive

from brim.core.config import SchedulerConfig
from brim.core.events import Event, Finished
from brim.core.plan import StepPlan, StepResult
from brim.core.policies.named import named
from brim.core.policy import Policy
from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from brim.engines.loop import EngineLoop, TokenStream
from brim.workloads.arrivals import Poisson

VOCABULARY = 1536
SHARED_TOKENS = 500
TIMED = ("bs-e-s", "echo", "brim")  # told of targets
BUDGETS = (8, 16, 32, 64, 128, 256)  # offline_step_tokens
DRAIN_SECONDS = 3.0  # for the last online requests of a slice
SIZES = {"num_blocks": 2048, "block_size": 16, "max_model_len": 1024}
ALONE = Contender("online only", "priority", with_offline=False)


def contenders() -> list[Contender]:
    fixed = [Contender(f"bs {tokens}", "bs", None, tokens) for tokens in BUDGETS]
    timed = [Contender(f"{name} {scale:g}x", name, scale) for scale in SCALES for name in TIMED]
    return [ALONE, Contender("vllm", "vllm"), Contender("priority", "priority"), *fixed, *timed]


# ---- what is asked -----------------------------------------------------------------------------------------


def online_requests(rate: float, seconds: float, slo: SLO, seed: int) -> list[Request]:
    """Prompts of 16 to 64 tokens, answers of 5 to 9; arrival times count from 0."""
    draw, requests = Random(seed), []
    for at, arrival_ns in enumerate(takewhile(lambda ns: ns < seconds * SECOND, Poisson(rate, seed))):
        prompt = _tokens(draw, draw.randint(16, 64))
        requests.append(_request(f"on{at}", prompt, draw.randint(5, 9), ONLINE, arrival_ns, slo))
    return requests


def offline_requests(count: int, seed: int) -> list[Request]:
    """The same 500 tokens and 64 to 160 of their own, answers of 12 to 24."""
    draw = Random(-seed - 1)
    shared = _tokens(draw, SHARED_TOKENS)
    return [
        _request(f"off{at}", shared + _tokens(draw, draw.randint(64, 160)), draw.randint(12, 24), OFFLINE)
        for at in range(count)
    ]


def _tokens(draw: Random, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(10, VOCABULARY) for _ in range(count))


def _request(
    name: str, prompt: tuple[int, ...], answer: int, who: TaskClass, at_ns: int = 0, slo: SLO | None = None
) -> Request:
    sampling = SamplingParams(max_tokens=answer, temperature=0.0)
    return Request(name, prompt, sampling, who, at_ns, slo=slo or SLO())


# ---- a slice -----------------------------------------------------------------------------------------------


class Kept:
    """An engine that outlives its loops, and counts how long its steps keep it busy."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.caps = engine.caps
        self.steps: list[tuple[int, int]] = []  # (begun_ns, took_ns)
        self.clock_ns = clock_ns
        self._engine = engine
        self._begun_ns = 0

    def begin(self, plan: StepPlan) -> None:
        self._begun_ns = self.clock_ns()
        self._engine.begin(plan)

    def finish(self) -> StepResult:
        result = self._engine.finish()
        self.steps.append((self._begun_ns, self.clock_ns() - self._begun_ns))
        return result

    def close(self) -> None:
        """Nothing: the next slice goes on with it."""


def config_of(who: Contender) -> SchedulerConfig:
    return SchedulerConfig(**SIZES, policy=who.policy, offline_step_tokens=who.offline_step_tokens)


def run_slice(
    kept: Kept,
    scheduler: Scheduler,
    online: Sequence[Request],
    offline: Sequence[Request],
    window: tuple[float, float],
    clock: ProcessorClock | None = None,
) -> Slice:
    """`online` arrive as they say, from now on; `window` in seconds from now. No clock: real time."""
    kept.steps.clear()
    gc.collect()  # of the slices before
    start_ns = kept.clock_ns()
    found = Slice(*(start_ns + int(edge * SECOND) for edge in window))
    if clock is None:
        loop = EngineLoop(kept, scheduler, observe=found.events.extend)
        found.offline_left = asyncio.run(_serve(loop, start_ns, online, offline, window[1]))
    else:
        found.offline_left = _step_by_step(kept, scheduler, clock, found, online, offline, window[1])
    found.busy_ns = sum(took_ns for begun_ns, took_ns in kept.steps if found.counts(begun_ns))
    if scheduler.policy.timing is not None:
        found.step_error = scheduler.policy.timing.steps.error.figures()
    return found


def _step_by_step(
    kept: Kept,
    scheduler: Scheduler,
    clock: ProcessorClock,
    found: Slice,
    online: Sequence[Request],
    offline: Sequence[Request],
    until_seconds: float,
) -> int:
    """As `_serve`, without a thread."""
    start = clock.seconds()
    start_ns = round(start * SECOND)
    waited_for, rest = ({each.request_id for each in some} for some in (online, offline))

    def observe(events: list[Event]) -> None:
        found.events.extend(events)
        for event in events:
            if isinstance(event, Finished):
                waited_for.discard(event.request_id)
                rest.discard(event.request_id)

    engine = LocalEngine(kept, scheduler, kept.clock_ns, observe)

    def enter(request: Request) -> None:
        engine.add(replace(request, arrival_ns=start_ns + request.arrival_ns))

    arrivals = [
        Arrival(start + each.arrival_ns / SECOND, partial(enter, each)) for each in (*offline, *online)
    ]
    end, over = start + until_seconds, start + until_seconds + DRAIN_SECONDS
    drive(engine, arrivals, clock, lambda: clock.seconds() < end)
    offline_left = len(rest)
    drive(engine, (), clock, lambda: bool(waited_for) and clock.seconds() < over)
    for request_id in (*waited_for, *rest):
        scheduler.abort(request_id, kept.clock_ns())
    engine.step()  # nobody is left: this tells of it
    return offline_left


async def _serve(
    loop: EngineLoop,
    start_ns: int,
    online: Sequence[Request],
    offline: Sequence[Request],
    until_seconds: float,
) -> int:
    """Returns how many of the offline requests are under way or wait after that time."""
    loop.start()
    try:
        readers = {asyncio.create_task(_read(loop.submit(request))) for request in offline}
        waiting = {asyncio.create_task(_arrive(loop, start_ns, request)) for request in online}
        await asyncio.sleep(until_seconds)
        offline_left = sum(not reader.done() for reader in readers)
        if waiting:
            await asyncio.wait(waiting, timeout=DRAIN_SECONDS)
        for reader in readers | waiting:
            if not reader.done():
                reader.cancel()
            elif error := reader.exception():
                raise error
        await asyncio.sleep(0)  # they abort
        await loop.drain(DRAIN_SECONDS)
        return offline_left
    finally:
        await asyncio.to_thread(loop.close)


async def _arrive(loop: EngineLoop, start_ns: int, request: Request) -> None:
    """Its latencies count from when it was to come, however late this event loop gets to it."""
    at_ns = start_ns + request.arrival_ns
    await asyncio.sleep((at_ns - time.monotonic_ns()) / SECOND)
    await _read(loop.submit(replace(request, arrival_ns=at_ns)))


async def _read(stream: TokenStream) -> None:
    try:
        async for _ in stream:
            pass
    finally:
        stream.abort()


# ---- a run -------------------------------------------------------------------------------------------------


def open_engine() -> Engine:
    """14M parameters, llama-shaped, random weights: a step takes 10 to 30 ms on one core."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from brim.engines.local import builtin
    from brim.engines.local.load import load

    config = LlamaConfig(
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
    )
    logging.disable_progress_bar()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        builtin.make_tokenizer().save_pretrained(folder)
        engine, _ = load(folder, dtype="float32", device="cpu", **SIZES)
    return engine


class Bench:
    """One engine, one rate of online requests, one set of targets; a slice at a time."""

    def __init__(
        self, kept: Kept, warm_up: float, seconds: float, backlog: int, clock: ProcessorClock | None = None
    ) -> None:
        self._kept, self._clock = kept, clock
        self._backlog = backlog
        self._window = (warm_up, warm_up + seconds)
        self._policies: dict[Contender, Policy] = {}
        self.rate = 4.0
        self.targets = [SLO() for _ in SCALES]

    def turn(self, who: Contender, seed: int) -> dict[str, Any]:
        slo = SLO() if who.scale is None else self.targets[SCALES.index(who.scale)]
        online = online_requests(self.rate, self._window[1], slo, seed)
        offline = offline_requests(self._backlog if who.with_offline else 0, seed)
        config = config_of(who)
        policy = self._policies.setdefault(who, named(config))
        found = run_slice(self._kept, Scheduler(config, policy), online, offline, self._window, self._clock)
        if offline and not found.offline_left:
            raise SystemExit(f"{who.name} has done the whole backlog: give a larger --backlog")
        return figures(found, self.targets)

    def calibrate(self, load: float, turns: int = 3) -> None:
        """The rate that gives the load."""
        for _ in range(turns):
            self.rate *= load / max(self.turn(ALONE, seed=0)["busy"], 0.01)

    def set_targets(self, seeds: Sequence[int]) -> Line:
        """From online requests alone; returns what these reached."""
        alone = summed_up(ALONE, [self.turn(ALONE, seed) for seed in seeds])
        for at, scale in enumerate(SCALES):
            ttft_ns, itl_ns = (int(scale * ms * 1e6) for ms in (alone.ttft_ms[1], alone.itl_ms[1]))
            self.targets[at] = SLO(ttft_ns=ttft_ns, itl_ns=itl_ns)
        return alone


def parse() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--load", type=float, default=0.45, help="share of time busy with online requests alone"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="counted in each slice")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before them")
    parser.add_argument("--backlog", type=int, default=200, help="offline requests of a slice")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="what time is")
    parser.add_argument("--only", nargs="+", help="contenders to run, such as 'echo 2x'")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def main() -> None:
    import torch

    args = parse()
    torch.set_num_threads(1)
    clock = ProcessorClock() if args.clock == "processor" else None
    kept = (
        Kept(open_engine()) if clock is None else Kept(open_engine(), lambda: round(clock.seconds() * SECOND))
    )
    bench = Bench(kept, args.warm_up, args.seconds, args.backlog, clock)
    bench.calibrate(args.load)
    alone = bench.set_targets(seeds=range(100, 103))
    print(f"{bench.rate:.2f} online requests/s; alone p99 TTFT / ITL", end=" ")
    print(f"{alone.ttft_ms[1]:.1f} / {alone.itl_ms[1]:.1f} ms", flush=True)
    chosen = [who for who in contenders() if not args.only or who.name in args.only]
    rounds: dict[Contender, list[dict[str, Any]]] = {who: [] for who in chosen}
    for who in chosen:
        if who.scale is not None:
            bench.turn(who, seed=0)
    for seed in range(1, args.rounds + 1):
        for who in chosen:
            rounds[who].append(bench.turn(who, seed))
    lines = [summed_up(who, found) for who, found in rounds.items()]
    show(lines)
    if args.json:
        args.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
