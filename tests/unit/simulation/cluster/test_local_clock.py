"""When a replica that runs on its own clock is to be looked at."""

from __future__ import annotations

import math

from brim.core.request import Request, SamplingParams
from brim.core.scheduler import Scheduler
from brim.simulation.cluster.local_clock import LocalClock
from brim.simulation.replica import Listener, Replica
from brim.simulation.truth import STOPS, Fillers, Truth
from tests.helpers import MS
from tests.unit.simulation.scenarios import NO_CLOCK, asked, setup, trace


def served(place: int, prompt: int) -> Request:
    return Request(str(place), Fillers(prompt), SamplingParams(max_tokens=50, stop_token_ids=STOPS))


def test_it_shows_when_somebody_starts_or_ends_and_not_in_between():
    """A step takes 10 ms and 1 for each token: 14 ms for the prompt, 11 for each of 6 decodes."""
    on, clock = setup(), LocalClock()
    listener = Listener(lambda events: None, lambda refused: None)
    truth = Truth(trace(asked(0, 4, 7), asked(0, 4, 2)))
    replica = Replica(clock, Scheduler(on.config), on.machine, truth, listener, NO_CLOCK)
    replica.submit(served(0, 4))
    seen = []
    while clock.shows_ns < math.inf:
        seen.append(clock.shows_ns / MS)
        clock.run_to(round(clock.shows_ns))
    assert seen == [0, 14, 80]
    replica.submit(served(1, 4))
    clock.run_to(80 * MS)
    assert clock.shows_ns == 94 * MS
