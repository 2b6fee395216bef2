"""How fast the simulator is: steps taken one by one, and a whole trace with quiet stretches skipped.

    python benchmarks/simulator.py [--trace FILE] [--profile NAME] [--policy NAME] [--json]

The first line is of some 70 requests that decode at any moment, on the profile's machine; the others are of
the trace, where one is given. Seconds are of this process's CPU time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any

from brim.core.config import SchedulerConfig
from brim.profiles.loader import load
from brim.simulation.machine import Machine
from brim.simulation.run import Run, Setup, simulate
from brim.workloads.formats import read
from brim.workloads.trace import Trace, TraceRequest

PROMPT, OUTPUT, REQUESTS = 64, 1000, 600
GAP_NS = 220_000_000  # between two arrivals; a request takes about 70 times as long


def steady() -> Trace:
    """Some 70 requests decode at any moment, and one ends or arrives every six steps."""
    return Trace("steady", [TraceRequest(i * GAP_NS, PROMPT, OUTPUT) for i in range(REQUESTS)])


def setup(trace: Trace, profile: Any, policy: str, skip: bool) -> Setup:
    longest = max(r.input_tokens + r.output_tokens for r in trace.requests)
    config = SchedulerConfig(
        num_blocks=profile.kv_tokens() // 16,
        max_model_len=1 << longest.bit_length(),
        enable_prefix_caching=False,
        policy=policy,
        target_forward_tokens=profile.target_forward_tokens,
    )
    return Setup(config, Machine(profile.step_time, profile.target_forward_tokens), skip=skip)


def measured(trace: Trace, on: Setup) -> dict[str, float]:
    start = process_time()
    run: Run = simulate(trace, on)
    seconds = process_time() - start
    steps = run.end.totals.steps
    tokens = sum(run.end.output_tokens.values())
    return {
        "requests": len(trace),
        "steps": steps,
        "mean_tokens_drawn_by_step": tokens / steps,
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "ms_per_request": 1000 * seconds / len(trace),
        "schedule_share": run.schedule_wall_seconds / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, help="such as Azure's chats of 2023")
    parser.add_argument("--profile", default="a100-llama-3-8b")
    parser.add_argument("--policy", default="priority")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    profile, crowd = load(args.profile), steady()
    rows = {"one by one": measured(crowd, setup(crowd, profile, args.policy, False))}
    if args.trace is not None:
        trace = read(args.trace)
        for name, skip in (("trace, skipping", True), ("trace, one by one", False)):
            rows[name] = measured(trace, setup(trace, profile, args.policy, skip))
    if args.json:
        print(json.dumps({"policy": args.policy, "profile": args.profile, "rows": rows}))
        return
    for name, row in rows.items():
        print(f"{name:>18}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
