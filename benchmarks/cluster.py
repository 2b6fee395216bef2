"""How fast a cluster is simulated: a million requests on 16 replicas, in bounded memory.

    python benchmarks/cluster.py [--requests N] [--replicas N] [--policy NAME,...] [--trace FILE] [--json]

Requests are drawn from the lengths of the trace (or of the shape that `brim trace synthesize servegen` has),
with gamma arrivals of CV 1.25, and made as they are due. Seconds are CPU time of one core. The digest is of
all figures: a change for speed alone leaves it as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from random import Random
from time import process_time

from brim.core.config import SchedulerConfig
from brim.core.policies.named import named
from brim.profiles.loader import load
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.routing import routing
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.cluster.setup import ClusterSetup, Pool
from brim.simulation.cluster.underway import Stream
from brim.simulation.machine import Machine
from brim.simulation.targets import Targets
from brim.workloads.arrivals import Gamma
from brim.workloads.formats import read
from brim.workloads.trace import TraceRequest

MEAN_INPUT, MEAN_OUTPUT = 246, 17  # of ServeGen's m-large, as generated


def lengths(path: str | None, seed: int = 0) -> Iterator[tuple[int, int]]:
    rng = Random(seed)
    if path:
        known = read(path).requests
        while True:
            drawn = known[rng.randrange(len(known))]
            yield drawn.input_tokens, drawn.output_tokens
    while True:
        yield 1 + int(rng.expovariate(1 / MEAN_INPUT)), 1 + int(rng.expovariate(1 / MEAN_OUTPUT))


def stream(count: int, rate: float, path: str | None) -> Stream:
    pairs = zip(Gamma(rate, 1.25), lengths(path), strict=False)
    return Stream("servegen-like", (TraceRequest(ns, *sizes) for ns, sizes in islice(pairs, count)))


def measured(asked: argparse.Namespace, policy: str) -> dict[str, object]:
    profile = load(asked.profile)
    machine = Machine(profile.step_time, profile.target_forward_tokens)
    config = SchedulerConfig(
        num_blocks=profile.kv_tokens() // 16,
        max_model_len=32768,
        enable_prefix_caching=False,
        policy=policy,
        target_forward_tokens=profile.target_forward_tokens,
    )
    pool = Pool(
        config,
        machine,
        lambda config, lengths: named(config, step_time=profile.step_time),
        asked.replicas,
        routing(asked.routing, machine, 0),
    )
    setup = ClusterSetup(pool, Targets(ttft_ns=1_000_000_000, tpot_ns=50_000_000), window_ns=60_000_000_000)
    started = process_time()
    run = simulate_cluster(stream(asked.requests, asked.rate * asked.replicas, asked.trace), setup)
    seconds = process_time() - started
    found = figures(run)
    del found["simulation_wall_seconds"]
    return {
        "policy": policy,
        "requests": found["online"]["requests"],
        "cpu_seconds": round(seconds, 1),
        "microseconds_per_request": round(1e6 * seconds / asked.requests),
        "minutes_for_a_million": round(1e6 * seconds / asked.requests / 60, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "attainment": found["online"]["slo_attainment"],
        "busy_share": found["busy_share"],
        "digest": hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--rate", type=float, default=10.0, help="requests/s of each replica")
    parser.add_argument("--policy", default="vllm,brim", help="one or more, each in a process of its own")
    parser.add_argument("--routing", default="least-load")
    parser.add_argument("--profile", default="h100-llama-3-8b")
    parser.add_argument("--trace")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # for the peak memory of each
        for policy in asked.policy.split(","):
            told = pool.apply(measured, (asked, policy))
            lines = [f"{name:<28}{value}" for name, value in told.items()]
            print(json.dumps(told) if asked.json else "\n".join([*lines, ""]), flush=True)


if __name__ == "__main__":
    main()
