"""Small clusters whose times can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from brim.core.policies.named import named
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.routing import LeastLoad, Routing
from brim.simulation.cluster.run import ClusterRun, simulate_cluster
from brim.simulation.cluster.setup import ClusterSetup, Pool
from brim.simulation.results import Figures
from brim.simulation.run import Setup
from brim.workloads.trace import Trace
from tests.unit.simulation.scenarios import NO_CLOCK, setup

FROM_HERE = ("targets", "max_output_tokens", "skip")


def cluster(
    replicas: int = 2, on: Setup | None = None, routing: Routing | None = None, **changes: Any
) -> ClusterSetup:
    """Replicas as in `setup()`: 100 blocks of 4 tokens; a step takes 10 ms and 1 for each token."""
    one = on or setup()
    pool = Pool(
        one.config,
        one.machine,
        lambda config, lengths: named(config),
        replicas,
        routing or Routing(LeastLoad()),
    )
    shared = {name: getattr(one, name) for name in FROM_HERE}
    return ClusterSetup(pool, **shared | changes)


def run(requests: Trace, on: ClusterSetup | None = None) -> ClusterRun:
    return simulate_cluster(requests, on or cluster(), stopwatch=NO_CLOCK)


def result(requests: Trace, on: ClusterSetup | None = None) -> Figures:
    return figures(run(requests, on))


def stepped(on: ClusterSetup) -> ClusterSetup:
    """The same, every step taken one by one."""
    return replace(on, skip=False)
