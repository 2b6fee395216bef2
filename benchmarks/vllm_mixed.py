"""Interactive chats and a batch backlog in one vLLM, under each way of scheduling.

    OMP_NUM_THREADS=1 python -m benchmarks.vllm_mixed [--quick] [--json FILE]     on this machine's CPU
    python -m benchmarks.vllm_mixed --gpu --kv scarce --seconds 8 --json FILE     Llama-3-8B's shape on a GPU

One engine in this process, one model with random weights. A row changes only how vLLM schedules: by itself
(first come first served, by priority, with few batch requests at a time, with a fixed number of tokens a
step), or by Brim with targets of 1.5, 2 and 4 times the p99 that chats have alone. All rows of a load serve
the same chats at the same times. On the CPU time is the processor's, so that other tenants of the machine do
not count; `--clock wall` is real time, as always on a GPU, and needs a quiet machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.clocks import Clock, ProcessorClock, WallClock
from tests.plugins.vllm import classes
from tests.plugins.vllm.hosts import Host, engine, scheduler_of

from brim.profiling.load_client import Ask

BUSY = (0.3, 0.6, 0.85)  # shares of the time in which chats alone keep the engine busy
TARGETS = (1.5, 2.0, 4.0)  # times the p99 of chats alone
AT_A_TIME = 8  # batch requests, where a client holds the others back
DOCUMENT, QUESTION, ANSWER = 320, 40, 32  # tokens of a batch line; documents are shared by eight lines
LINES = 2_000
BACKLOG = 400  # of them with the engine at any time
SETTLE_SECONDS = 2.0  # before the first chat that counts
CALIBRATIONS, NEAR = 6, 0.02  # so many tries for a load that is so near
GRACE_SECONDS = 5.0  # for the last chats; who is not done by then counts with the time it had


@dataclass(frozen=True)
class Machine:
    """How large everything is: `scale` is the number of times that prompts and answers are longer."""

    model: str
    scale: int
    kv_blocks: Mapping[str, int]  # of 32 tokens
    budgets: Sequence[int]  # tokens a step
    max_num_seqs: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    def host(self, kv: str) -> Host:
        return Host(
            scheduler=classes.BRIM,
            model=self.model,
            num_blocks=self.kv_blocks[kv],
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.budgets[-1],
            max_model_len=512 * self.scale,
            additional_config={"brim": {"policy": "stock"}},
            changes=self.changes,
        )


CPU = Machine("25m", 1, {"scarce": 40, "ample": 400}, (16, 32, 64, 128, 256), 32)
GPU = Machine(
    "llama-3-8b",
    8,
    {"scarce": 1_000, "ample": 10_000},
    (128, 256, 512, 1024, 2048),
    256,
    {"load_format": "dummy", "dtype": "bfloat16", "enforce_eager": False},
)


@dataclass(frozen=True)
class Way:
    """How a row schedules. `brim` are Brim's settings; None: vLLM's own scheduling."""

    name: str
    batch: bool = True
    brim: Mapping[str, Any] | None = None
    priority: int = 0  # of batch lines; chats have 0
    tokens: int | None = None
    at_a_time: int = BACKLOG


@dataclass(frozen=True)
class Row:
    way: str
    ttft: tuple[float, float, float]  # p50, p95, p99 in seconds
    itl: tuple[float, float, float]
    batch_per_second: float
    busy: float
    chats: tuple[tuple[float, float], ...]  # TTFT and longest gap of each

    def attainment(self, ttft: float, itl: float) -> float:
        """Share of the chats that have their first token and every gap in time."""
        return sum(first <= ttft and gap <= itl for first, gap in self.chats) / len(self.chats)


def chats_of(rate: float, seconds: float, seed: int, scale: int) -> list[Ask]:
    rng, at, made = random.Random(seed), SETTLE_SECONDS, []
    while True:
        at += rng.expovariate(rate)
        if at > SETTLE_SECONDS + seconds:
            return made
        prompt = [rng.randrange(5, 400) for _ in range(scale * rng.randint(30, 90))]
        made.append(Ask(at, prompt, scale * rng.randint(20, 40)))


def lines_of(seed: int, scale: int) -> Iterator[list[int]]:
    """Prompts of batch lines in mixed order: eight questions to each document."""
    rng = random.Random(seed)
    documents = [[rng.randrange(5, 400) for _ in range(scale * DOCUMENT)] for _ in range(LINES // 8)]
    order = [document for document in documents for _ in range(8)]
    rng.shuffle(order)
    for document in order:
        yield [*document, *(rng.randrange(5, 400) for _ in range(scale * QUESTION))]


class Run:
    """One row: chats come at their times, batch lines wait from the start."""

    def __init__(self, llm: Any, way: Way, chats: Sequence[Ask], scale: int, clock: Clock) -> None:
        self._engine, self._way, self._scale = llm.llm_engine, way, scale
        self._clock = clock
        self._chats = {f"chat-{i}": chat for i, chat in enumerate(chats)}
        self._coming = deque(self._chats)
        self._lines = enumerate(lines_of(1, scale) if way.batch else ())
        self._num_lines = 0  # with the engine
        self._day = 0.0  # of the start
        self._finished: list[float] = []
        self._busy = 0.0

    def row(self) -> Row:
        self._let_in(-1.0)  # before the clock runs: so many prompts take a while to be hashed
        start, self._day = self._clock.seconds(), time.time()
        unfinished = set(self._chats)
        until = max(chat.at for chat in self._chats.values()) + GRACE_SECONDS
        while unfinished and (now := self._clock.seconds() - start) < until:
            self._let_in(now)
            if not self._engine.has_unfinished_requests():
                self._clock.idle_until(start + self._chats[self._coming[0]].at)
                continue
            outputs = self._engine.step()
            end = self._clock.seconds() - start
            self._busy += end - now
            for output in outputs:
                self._take(output, end, unfinished)
        return self._figures(self._clock.seconds() - start)

    def _let_in(self, now: float) -> None:
        while self._coming and self._chats[self._coming[0]].at <= now:
            name = self._coming.popleft()
            chat = self._chats[name]
            self._add(name, chat.prompt, chat.max_tokens, {}, 0, self._day + chat.at)
        while self._num_lines < self._way.at_a_time:
            number, prompt = next(self._lines, (None, None))
            if prompt is None:
                return
            facts = {"task_class": "offline"} if self._way.brim else {}
            self._add(f"line-{number}", prompt, self._scale * ANSWER, facts, self._way.priority)
            self._num_lines += 1

    def _add(
        self,
        name: str,
        prompt: list[int],
        tokens: int,
        facts: Mapping[str, Any],
        priority: int,
        arrival_time: float | None = None,  # while a step ran: a server's front end takes it then
    ) -> None:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, extra_args=dict(facts) or None
        )
        self._engine.add_request(
            name, {"prompt_token_ids": prompt}, params, arrival_time=arrival_time, priority=priority
        )

    def _take(self, output: Any, at: float, unfinished: set[str]) -> None:
        name = output.request_id
        if name in self._chats:
            times = self._chats[name].token_times
            times += [at] * (len(output.outputs[0].token_ids) - len(times))
        if output.finished:
            unfinished.discard(name)
            if name not in self._chats:
                self._num_lines -= 1
                self._finished.append(at)

    def _figures(self, seconds: float) -> Row:
        self._engine.abort_request([*self._chats, *(f"line-{number}" for number in range(LINES))])
        while self._engine.has_unfinished_requests():
            self._engine.step()
        chats = list(self._chats.values())
        firsts, gaps = [chat.ttft(seconds) for chat in chats], [chat.gaps(seconds) for chat in chats]
        lines = sum(at > SETTLE_SECONDS for at in self._finished)
        return Row(
            self._way.name,
            percentiles(firsts),
            percentiles([gap for each in gaps for gap in each] or [math.inf] * 2),
            lines / (seconds - SETTLE_SECONDS),
            self._busy / seconds,
            tuple((first, max(each, default=math.inf)) for first, each in zip(firsts, gaps, strict=True)),
        )


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


class Bench:
    """One engine; a row at a time."""

    def __init__(self, llm: Any, machine: Machine, clock: Clock) -> None:
        self._llm, self._machine, self._clock = llm, machine, clock

    def rows(self, busy: float, seconds: float) -> list[Row]:
        """All rows of one load; the first are the chats alone."""
        chats, first = self._calibrated(busy, seconds)
        limit = self._machine.budgets[-1]
        budgets = [tokens for tokens in self._machine.budgets if tokens < limit]
        ways = [
            Way("vLLM, first come first served"),
            Way(f"vLLM, priority (up to {limit} tokens a step)", priority=1),
            Way(f"vLLM, priority, {AT_A_TIME} batch requests at a time", priority=1, at_a_time=AT_A_TIME),
            *(
                Way(f"vLLM, priority, {tokens} tokens a step", priority=1, tokens=tokens)
                for tokens in budgets
            ),
        ]
        rows = [first, *(self._run(way, chats) for way in ways)]
        for factor in TARGETS:
            targets = {"ttft_ms": 1.5e3 * first.ttft[2], "itl_ms": factor * 1e3 * first.itl[2]}
            way = Way(f"Brim, ITL {factor:g}x", brim={"policy": "brim", "strict": True, **targets})
            rows.append(self._run(way, chats))
        return rows

    def _calibrated(self, busy: float, seconds: float) -> tuple[list[Ask], Row]:
        """Chats that keep the engine busy for that share of the time, and how they do alone."""
        alone, rate, seed = Way("chats alone", batch=False), 1.0, round(100 * busy)
        for _ in range(CALIBRATIONS):
            chats = chats_of(rate, seconds, seed, self._machine.scale)
            row = self._run(alone, chats)
            if abs(row.busy - busy) <= NEAR:
                break
            rate *= math.log(1 - busy) / math.log(1 - min(row.busy, 0.99))
        return chats, row

    def _run(self, way: Way, chats: Sequence[Ask]) -> Row:
        scheduler = scheduler_of(self._llm)
        scheduler.brim_configure({"policy": "stock"} if way.brim is None else way.brim)
        self._llm.llm_engine.reset_prefix_cache()
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # as servers do: to go through all objects of a process takes 0.2 s and more
        most = scheduler.max_num_scheduled_tokens
        scheduler.max_num_scheduled_tokens = way.tokens or most
        try:
            fresh = [Ask(chat.at, chat.prompt, chat.max_tokens) for chat in chats]
            return Run(self._llm, way, fresh, self._machine.scale, self._clock).row()
        finally:
            scheduler.max_num_scheduled_tokens = most
            print(".", end="", flush=True)


def attained(rows: Sequence[Row], factor: float) -> list[float]:
    """By row: TTFT within 1.5 times the p99 of chats alone and every gap within so many times theirs."""
    alone = rows[0]
    return [row.attainment(1.5 * alone.ttft[2], factor * alone.itl[2]) for row in rows]


def frontier(rows: Sequence[Row], factor: float) -> str:
    """The rows beside a backlog that no other beats in attainment or batch work and equals in the other."""
    points = [
        (share, row.batch_per_second, row.way)
        for row, share in zip(rows, attained(rows, factor), strict=True)
        if row.batch_per_second
    ]
    best = [a for a in points if not any(b[:2] != a[:2] and b[0] >= a[0] and b[1] >= a[1] for b in points)]
    told = [f"{way} ({100 * share:.1f} %, {lines:.2f}/s)" for share, lines, way in sorted(best)]
    return f"Frontier at {factor:g}x: {'; '.join(told)}"


def table(rows: Sequence[Row]) -> str:
    shares = list(zip(*(attained(rows, factor) for factor in TARGETS), strict=True))
    lines = [
        "| | TTFT p50/p95/p99 ms | ITL p50/p95/p99 ms | batch requests/s | attainment at 1.5x / 2x / 4x |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row, met in zip(rows, shares, strict=True):
        cells = [
            row.way,
            " / ".join(f"{1e3 * value:.0f}" for value in row.ttft),
            " / ".join(f"{1e3 * value:.1f}" for value in row.itl),
            f"{row.batch_per_second:.2f}",
            " / ".join(f"{100 * share:.1f} %" for share in met),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {frontier(rows, factor)}" for factor in TARGETS)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one load, one size of the KV cache, short")
    parser.add_argument("--seconds", type=float, default=20.0, help="of arrivals, for each row")
    parser.add_argument("--gpu", action="store_true", help="Llama-3-8B's shape and longer requests")
    parser.add_argument("--model", help="on a CPU: tiny, 25m or 120m")
    parser.add_argument("--kv", choices=["scarce", "ample", "both"], default="both")
    parser.add_argument("--busy", type=float, nargs="+", default=BUSY, help="shares of the time, 0 to 1")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--clock", choices=["processor", "wall"], help="default: wall on a GPU only")
    asked = parser.parse_args()
    machine = GPU if asked.gpu else replace(CPU, model=asked.model or CPU.model)
    loads = BUSY[1:2] if asked.quick else asked.busy
    kinds = ["scarce"] if asked.quick else [asked.kv] if asked.kv != "both" else list(machine.kv_blocks)
    wall = asked.clock == "wall" or (asked.gpu and asked.clock is None)
    clock = WallClock() if wall else ProcessorClock()
    found: dict[str, list[dict[str, Any]]] = {}
    for kv in kinds:
        with engine(machine.host(kv), scheduling_policy="priority") as llm:
            bench = Bench(llm, machine, clock)
            for busy in loads:
                with clock.told_to_all():
                    rows = bench.rows(busy, 8.0 if asked.quick else asked.seconds)
                title = f"KV {kv}, chats alone busy for {100 * rows[0].busy:.0f} % of the time"
                print(f"\n\n{title}, {len(rows[0].chats)} chats\n\n{table(rows)}", flush=True)
                found[title] = [asdict(row) for row in rows]
    if asked.json:
        asked.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
