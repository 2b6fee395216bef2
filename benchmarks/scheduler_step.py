"""What a quiet decode step costs: `schedule`, `commit`, and a bare append-and-check loop beside them.

    python benchmarks/scheduler_step.py [--json]

Every request decodes; nobody arrives, ends or waits in want of anything but a seat. All contenders are
timed in turn within one process; the figures are medians in microseconds.

Then what a decision costs that can't be left out: chats wait behind full seats, and a line of a batch for the
time that all chats leave. The prefix that the chats share is cached: how long it is makes no difference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter_ns

from brim.core.config import SchedulerConfig
from brim.core.estimators.step_time import StepTime, shape_of
from brim.core.plan import StepResult
from brim.core.policies.named import named
from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler

PROMPT, OUTPUT, BLOCK = 8, 4000, 16
STEPS, TURN = 1000, 20
SECOND_NS = 1_000_000_000
STEP_TIME = StepTime(8 * 10**9, 3 * 10**7, (), 5000, 2 * 10**7, 10**5)  # 8 ms and more
SEATS, BEHIND = 8, 16


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


class Chats:
    """`SEATS` chats that decode and `BEHIND` that wait, all with one cached prefix, and a line of a batch."""

    def __init__(self, prefix_tokens: int) -> None:
        config = SchedulerConfig(
            num_blocks=2 * (prefix_tokens // BLOCK) + 4096,
            max_model_len=prefix_tokens + OUTPUT,
            max_num_seqs=SEATS,
            max_num_batched_tokens=prefix_tokens + BLOCK,
        )
        self._scheduler = Scheduler(config, named(config, step_time=STEP_TIME))
        self._now_ns = 0
        prefix = [i % 50000 for i in range(prefix_tokens)]
        self._add("first", [*prefix, 1], 1)
        self.step()
        for i in range(SEATS + BEHIND):
            self._add(f"chat{i}", [*prefix, i], OUTPUT // 2)
        self._add("line", [3] * 100, 20, TaskClass.OFFLINE)
        for _ in range(TURN):
            self.step()

    def _add(
        self, name: str, prompt: list[int], output: int, task_class: TaskClass = TaskClass.ONLINE
    ) -> None:
        slo = SLO() if task_class is TaskClass.OFFLINE else SLO(ttft_ns=1000 * SECOND_NS, itl_ns=SECOND_NS)
        sampling = SamplingParams(max_tokens=output, temperature=0.0)
        self._scheduler.add(Request(name, prompt, sampling, task_class, self._now_ns, slo=slo), self._now_ns)

    def step(self) -> float:
        """Microseconds of `schedule`."""
        start = perf_counter_ns()
        plan = self._scheduler.schedule(self._now_ns)
        took_us = (perf_counter_ns() - start) / 1e3
        self._now_ns += STEP_TIME.picoseconds(shape_of(plan.chunks, len(plan.decodes), 0)) // 1000
        self._scheduler.commit(plan, StepResult([7] * len(plan.sampling())), self._now_ns)
        return took_us


def measure_behind() -> list[dict[str, float]]:
    """In turn, step by step."""
    chats = {tokens: Chats(tokens) for tokens in (160, 8_000, 32_000, 96_000)}
    times: dict[int, list[float]] = {tokens: [] for tokens in chats}
    for _ in range(STEPS // 4):
        for tokens, each in chats.items():
            times[tokens].append(each.step())
    return [
        {"running": SEATS, "waiting": BEHIND + 1, "prefix_tokens": tokens, "schedule_us": median(took)}
        for tokens, took in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--policy", default="priority")
    args = parser.parse_args()
    cases = [(64, 0), (256, 0), (1024, 0), (64, 10_000), (256, 10_000), (1024, 10_000)]
    rows = [measure(running, waiting, args.policy) for running, waiting in cases]
    behind = measure_behind()
    if args.json:
        print(json.dumps({"policy": args.policy, "rows": rows, "behind_full_seats": behind}))
        return
    columns = ("running", "waiting", "schedule_us", "commit_us", "bare_loop_us", "commit_over_bare")
    show(columns, rows)
    print("\nbrim, chats that wait behind full seats and share a cached prefix")
    show(tuple(behind[0]), behind)


def show(columns: tuple[str, ...], rows: list[dict[str, float]]) -> None:
    print("".join(f"{name:>18}" for name in columns))
    for row in rows:
        print("".join(f"{row[name]:>18.5g}" for name in columns))


if __name__ == "__main__":
    main()
