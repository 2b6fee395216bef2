"""What a quiet decode step costs: `schedule`, `commit`, and a bare append-and-check loop beside them.

    python benchmarks/scheduler_step.py [--json]

Every request decodes; nobody arrives, ends or waits in want of anything but a seat. All contenders are
timed in turn within one process; the figures are medians in microseconds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter_ns

from brim.core.config import SchedulerConfig
from brim.core.plan import StepResult
from brim.core.request import Request, SamplingParams
from brim.core.scheduler import Scheduler

PROMPT, OUTPUT, BLOCK = 8, 4000, 16
STEPS, TURN = 1000, 20


def steady(running: int, waiting: int, policy: str) -> Scheduler:
    """A scheduler with `running` requests decoding at all phases of a block, and `waiting` behind them."""
    config = SchedulerConfig(
        num_blocks=running * 256,
        block_size=BLOCK,
        max_model_len=4096,
        max_num_seqs=running,
        max_num_batched_tokens=running * (PROMPT + BLOCK),
        policy=policy,
    )
    scheduler = Scheduler(config)
    sampling = SamplingParams(max_tokens=OUTPUT, temperature=0.0, stop_token_ids=frozenset({2}))
    for i in range(running + waiting):
        prompt = [(i + j) % 50000 for j in range(PROMPT + i % BLOCK)]
        scheduler.add(Request(f"r{i}", prompt, sampling, arrival_ns=i), 0)
    while len(scheduler.batch.rows()) < running:
        plan = scheduler.schedule(0)
        scheduler.commit(plan, StepResult([7] * len(plan.sampling())), 0)
    return scheduler


class Row:
    """What a bare loop needs of a request: its tokens, its stop tokens, its limit."""

    __slots__ = ("limit", "stop", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.stop = frozenset({2})
        self.limit = 10**9


def bare(rows: list[Row], drawn: list[int]) -> list[Row]:
    over = []
    for row, token in zip(rows, drawn, strict=True):
        row.tokens.append(token)
        if token in row.stop or len(row.tokens) >= row.limit:
            over.append(row)
    return over


def timed(call: Callable[[], object]) -> float:
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e3


def measure(running: int, waiting: int, policy: str) -> dict[str, float]:
    scheduler, rows, drawn = steady(running, waiting, policy), [Row() for _ in range(running)], [7] * running
    times: list[tuple[float, float, float]] = list(_steps(scheduler, rows, drawn))
    schedule, commit, loop = (median(column) for column in zip(*times, strict=True))
    return {
        "running": running,
        "waiting": waiting,
        "schedule_us": schedule,
        "commit_us": commit,
        "bare_loop_us": loop,
        "commit_over_bare": commit / loop,
        "step_us": schedule + commit,
    }


def _steps(scheduler: Scheduler, rows: list[Row], drawn: list[int]) -> Iterator[tuple[float, float, float]]:
    result = StepResult(drawn)
    for _ in range(STEPS // TURN):
        steps = []
        for _ in range(TURN):
            start = perf_counter_ns()
            plan = scheduler.schedule(0)
            middle = perf_counter_ns()
            scheduler.commit(plan, result, 0)
            end = perf_counter_ns()
            steps.append(((middle - start) / 1e3, (end - middle) / 1e3))
        # not between two steps: the loop's rows would push the scheduler's data out of the processor's cache
        yield from ((*step, timed(lambda: bare(rows, drawn))) for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--policy", default="priority")
    args = parser.parse_args()
    cases = [(64, 0), (256, 0), (1024, 0), (64, 10_000), (256, 10_000), (1024, 10_000)]
    rows = [measure(running, waiting, args.policy) for running, waiting in cases]
    if args.json:
        print(json.dumps({"policy": args.policy, "rows": rows}))
        return
    columns = ("running", "waiting", "schedule_us", "commit_us", "bare_loop_us", "commit_over_bare")
    print("".join(f"{name:>18}" for name in columns))
    for row in rows:
        print("".join(f"{row[name]:>18.4g}" for name in columns))


if __name__ == "__main__":
    main()
