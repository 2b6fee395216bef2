"""What a step of vLLM's scheduler costs with Brim's class in its place, over what vLLM's own costs.

    OMP_NUM_THREADS=1 python -m benchmarks.vllm_step_cost [--class pkg.mod:Class] [--steps 1000] [--json]

In the environment of `make test-vllm`. Both schedulers serve the same requests without a model, step by step
in turn; a step's cost is the processor time of `schedule` and `update_from_output`. As many requests run as
there are seats, a quarter more wait, and whenever one ends another arrives. Without facts Brim has nothing to
do but stand aside; in the other rows half of the requests are online, with targets, and half are offline. The
time that both are told is that of a small GPU, so that Brim learns what a step takes and both run the same.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from random import Random
from statistics import mean, median
from time import thread_time_ns
from typing import Any

from tests.plugins.vllm import classes
from tests.plugins.vllm.clock import ToldClock
from tests.plugins.vllm.driver import Limits, hasher, make_request, make_scheduler
from vllm.v1.outputs import ModelRunnerOutput

BLOCK, LONGEST = 16, 768  # a request's prompt and answer, at most
MOST_ARRIVALS = 4  # before a step: Brim would keep time free for one more burst like a first one of all
ONLINE = {"task_class": "online", "ttft_ms": 5_000, "itl_ms": 1_000}  # easily met: no step is cut short
OFFLINE = {"task_class": "offline"}
FACTS: dict[str, list[dict[str, Any]]] = {"none": [{}], "classes": [ONLINE, OFFLINE]}
SCENES = [(running, facts, ahead) for ahead in (False, True) for running in (128, 512) for facts in FACTS]


class Contender:
    """One scheduler with its own copy of the requests; `times_us` are those of its steps."""

    def __init__(self, path: str, running: int, facts: Sequence[dict[str, Any]], ahead: bool) -> None:
        limits = Limits(
            num_blocks=2 * running * LONGEST // BLOCK,
            block_size=BLOCK,
            max_num_seqs=running,
            max_num_batched_tokens=8192,
            steps_in_flight=2 if ahead else 1,
        )
        self.scheduler = make_scheduler(classes.find(path), limits)
        self.times_us: list[float] = []
        self._running, self._facts, self._hasher = running, facts, hasher(limits)
        self._random, self._count = Random(0), 0
        self._in_flight: list[tuple[Any, ModelRunnerOutput]] = []
        self._depth = limits.steps_in_flight
        self._clock = ToldClock()

    def step(self) -> None:
        """Fills up the queue, then schedules a step and takes the oldest one in."""
        with self._clock.told_to_all():
            self._step()

    def _step(self) -> None:
        for _ in range(min(MOST_ARRIVALS, self._running * 5 // 4 - len(self.scheduler.requests))):
            self._arrive()
        start = thread_time_ns()
        scheduled = self.scheduler.schedule()
        spent = thread_time_ns() - start
        self._in_flight.append((scheduled, sample(self.scheduler, scheduled)))
        if len(self._in_flight) == self._depth:
            output = self._in_flight.pop(0)
            self._clock.passes(output[0].total_num_scheduled_tokens)
            start = thread_time_ns()
            self.scheduler.update_from_output(*output)
            spent += thread_time_ns() - start
        self.times_us.append(spent / 1e3)

    def _arrive(self) -> None:
        prompt = [self._random.randrange(1000) for _ in range(self._random.randint(32, 256))]
        facts = self._facts[self._count % len(self._facts)]
        request = make_request(
            f"r{self._count}", prompt, self._random.randint(64, 512), self._hasher, **facts
        )
        self.scheduler.add_request(request)
        self._count += 1


def sample(scheduler: Any, scheduled: Any) -> ModelRunnerOutput:
    """A token for everyone whose prompt is done with this step; called behind `schedule`."""
    request_ids = list(scheduled.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=request_ids,
        req_id_to_index={name: index for index, name in enumerate(request_ids)},
        sampled_token_ids=[[] if scheduler.requests[name].is_prefill_chunk else [7] for name in request_ids],
    )


def measure(path: str, running: int, facts: str, ahead: bool, steps: int) -> dict[str, Any]:
    pair = [Contender(each, running, FACTS[facts], ahead) for each in (classes.STOCK, path)]
    for turn in range(steps + running):  # the first ones fill the batch
        for contender in pair[:: 1 if turn % 2 else -1]:
            contender.step()
        if turn == running:
            for contender in pair:
                contender.times_us.clear()
            gc.collect()
    stock, ours = (contender.times_us for contender in pair)
    return {
        "running": running,
        "facts": facts,
        "mode": "async" if ahead else "sync",
        "stock_us": median(stock),
        "ours_us": median(ours),
        "median_ratio": median(ours) / median(stock),
        "mean_ratio": mean(ours) / mean(stock),
        "stock_running": len(pair[0].scheduler.running),
        "ours_running": len(pair[1].scheduler.running),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--class", dest="path", default=classes.BRIM, help="module:Class")
    parser.add_argument("--steps", type=int, default=1000, help="measured per row")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args()
    rows = []
    for running, facts, ahead in SCENES:
        rows.append(measure(asked.path, running, facts, ahead, asked.steps))
        if not asked.json:
            show(rows)
    if asked.json:
        print(json.dumps({"class": asked.path, "rows": rows}))


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints the last row, the first one under its header."""
    if len(rows) == 1:
        print("".join(f"{name:>14}" for name in rows[0]))
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in rows[-1].values())
    print("".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
