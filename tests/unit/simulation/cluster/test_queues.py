"""Against results of queueing theory: constant step times, one seat or many."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from brim.simulation.cluster.routing import RoundRobin, Routing
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.cluster.setup import ClusterSetup
from brim.simulation.cluster.underway import Stream
from brim.workloads.arrivals import Poisson
from brim.workloads.trace import NANOSECONDS, TraceRequest
from tests.helpers import ONLINE
from tests.unit.simulation.cluster.scenarios import cluster
from tests.unit.simulation.scenarios import machine, setup, step_time

REQUESTS = 12_000


def served(rate: float, outputs: object, on: ClusterSetup, seed: int = 1) -> float:
    """Mean seconds from arrival to end."""
    pairs = zip(Poisson(rate, seed), outputs, strict=False)  # type: ignore[call-overload]
    requests = (TraceRequest(ns, 1, tokens) for ns, tokens in islice(pairs, REQUESTS))
    mean = simulate_cluster(Stream("queue", requests), on).by_class[ONLINE].e2e_seconds.mean
    assert mean is not None
    return mean


def constant_steps(replicas: int, seats: int, ms: int, routing: Routing | None = None) -> ClusterSetup:
    """A step takes `ms`, however many requests are in it. No window is noted."""
    on = setup(machine(step_time(ms, per_token=0)), settings={"max_num_seqs": seats, "max_model_len": 400})
    return cluster(replicas, on, routing, window_ns=10**18)


def exponential(mean_tokens: float, seed: int = 2) -> Iterator[int]:
    """Geometric lengths: in steps much shorter than the mean, an exponential time of service."""
    rng = Random(seed)
    while True:
        yield min(1 + int(rng.expovariate(1 / mean_tokens)), 399)


def one_queue(rate: float, services: Iterator[float], servers: int) -> float:
    """Mean time in the system of the same arrivals, first come first served by whoever is free first."""
    free, total = [0.0] * servers, 0.0
    for ns, service in islice(zip(Poisson(rate, 1), services, strict=False), REQUESTS):
        arrival = ns / NANOSECONDS
        end = max(heapq.heappop(free), arrival) + service
        heapq.heappush(free, end)
        total += end - arrival
    return total / REQUESTS


def test_one_seat_and_constant_service_is_m_d_1():
    """Pollaczek and Khinchine: the mean wait is load / (2 (1 - load)) services."""
    service, load = 0.010, 0.7
    expected = service * (1 + load / (2 * (1 - load)))
    ones = iter(lambda: 1, None)
    assert served(load / service, ones, constant_steps(1, 1, 10)) == pytest.approx(expected, rel=0.03)


def test_one_seat_and_exponential_service_is_m_m_1():
    """The mean time in the system is service / (1 - load)."""
    mean_tokens, load = 15.0, 0.5
    service = 0.001 / (1 - math.exp(-1 / mean_tokens))  # of the geometric law
    rate = load / service
    found = served(rate, exponential(mean_tokens), constant_steps(1, 1, 1))
    assert found == pytest.approx(service / (1 - load), rel=0.06)
    assert found == pytest.approx(
        one_queue(rate, (0.001 * n for n in exponential(mean_tokens)), 1), rel=0.001
    )


def test_as_many_seats_as_servers_is_m_m_c():
    """Erlang's C: a batch whose steps take the same time however full is c servers and one queue.

    Who comes in the middle of a step waits for its end: less than a step, half of one on average.
    """
    seats, mean_tokens, load = 4, 15.0, 0.7
    service = 0.001 / (1 - math.exp(-1 / mean_tokens))
    offered = seats * load
    tail = offered**seats / math.factorial(seats) / (1 - load)
    waits = tail / (sum(offered**k / math.factorial(k) for k in range(seats)) + tail)
    expected = service * (1 + waits / (seats * (1 - load)))
    found = served(offered / service, exponential(mean_tokens), constant_steps(1, seats, 1)) - 0.0005
    same = one_queue(offered / service, (0.001 * n for n in exponential(mean_tokens)), seats)
    assert found == pytest.approx(expected, rel=0.08)
    assert found == pytest.approx(same, rel=0.01)


def test_round_robin_deals_arrivals_in_turn():
    """Lindley's recursion for each queue, worked out apart from the simulator."""
    service, load = 0.010, 0.7
    rate, ones = 2 * load / service, iter(lambda: 1, None)
    expected = lindley(rate, service, 2)
    found = served(rate, ones, constant_steps(2, 1, 10, Routing(RoundRobin())))
    assert found == pytest.approx(expected, rel=0.01)


def lindley(rate: float, service: float, servers: int) -> float:
    """Mean time in the system where each of `servers` queues gets every so-manieth of the same arrivals."""
    free = [0.0] * servers
    total = 0.0
    for i, ns in enumerate(islice(Poisson(rate, 1), REQUESTS)):
        arrival = ns / NANOSECONDS
        free[i % servers] = max(free[i % servers], arrival) + service
        total += free[i % servers] - arrival
    return total / REQUESTS
