"""One replica of a cluster: scheduler and machine, its clock, its figures, the router's books of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from brim.core.events import Event, Finished, FirstToken
from brim.core.request import SLO, Request
from brim.core.scheduler import Scheduler
from brim.metrics.histogram import Histogram
from brim.metrics.merging import fine
from brim.metrics.recorder import Recorder
from brim.simulation.cluster.books import Books
from brim.simulation.cluster.local_clock import LocalClock
from brim.simulation.cluster.setup import Pool
from brim.simulation.cluster.underway import TrueLengths, Underway
from brim.simulation.replica import Listener, Replica
from brim.simulation.truth import TraceHashing, Truth


class Status(Enum):
    STARTING = auto()
    UP = auto()
    DRAINING = auto()  # ends what it has, and gets no more
    GONE = auto()


class Duties(NamedTuple):
    """Whom a member tells that a request is over with it, by its place and at what time."""

    ended: Callable[[Member, int, int], None]
    refused: Callable[[Member, int, int], None]
    moves_on: Callable[[int], bool] | None  # whether another member draws the rest; None: never
    hand_on: Callable[[Member, int, int], None]  # and then this is called


class Member:
    def __init__(
        self,
        number: int,
        pool: Pool,
        underway: Underway,
        duties: Duties,
        counts: Callable[[Request], bool],
        judged: Callable[[Request], SLO],
        *,
        now_ns: int,
        skip: bool = True,
    ) -> None:
        self.number = number
        self.pool = pool
        self.status = Status.STARTING
        self.since_ns = now_ns  # paid for from here
        self.gone_ns: int | None = None
        self.books = Books(number)
        self.clock = LocalClock()
        self.clock.now_ns = now_ns
        self.recorder: Recorder[Histogram] = Recorder(fine, counts, judged)
        self.shown_ns = -1.0  # what it last announced to the cluster's clock
        self.link_free_ns = 0  # when what it hands on can leave
        self._duties = duties
        config = pool.config
        hashing = None
        if config.enable_prefix_caching:
            hashing = TraceHashing(underway, config.block_size, config.max_model_len)
        self.replica = Replica(
            self.clock,
            Scheduler(config, pool.policy(config, TrueLengths(underway)), hashing),
            pool.machine,
            Truth(underway),
            Listener(self._hear, self._refuse),
            lambda: 0.0,
            skip=skip,
            number=number,
        )

    @property
    def is_idle(self) -> bool:
        return not (self.books.online or self.books.offline)

    def submit(self, request: Request, now_ns: int) -> None:
        """A request arrives, after all that the replica did before."""
        self.look(now_ns)
        self.replica.submit(request)

    def wake(self, now_ns: int) -> None:
        """All up to and at this moment."""
        self.clock.run_to(now_ns)

    def look(self, now_ns: int) -> None:
        """Does all before this moment."""
        self.clock.run_before(now_ns)

    def fail(self, now_ns: int) -> dict[int, int]:
        """Loses all it holds; returns the requests by their places, and the tokens drawn of each here."""
        self.look(now_ns)
        self.clock.stop()
        self.leave(now_ns)
        drawn = {int(s.request.request_id): s.num_output_tokens for s in self.replica.scheduler.states()}
        return {place: drawn.get(place, 0) for place in self.books.places()}

    def leave(self, now_ns: int) -> None:
        self.status, self.gone_ns = Status.GONE, now_ns

    def paid_ns(self, now_ns: int) -> int:
        """Since it was started, up to now or its end."""
        end_ns = now_ns if self.gone_ns is None else min(self.gone_ns, now_ns)
        return max(end_ns - self.since_ns, 0)

    # ---- what its scheduler tells ----------------------------------------------------------------------

    def _hear(self, events: list[Event]) -> None:
        moves_on, moving = self._duties.moves_on, set()
        if moves_on is not None:
            moving = {e.request_id for e in events if type(e) is Finished and moves_on(int(e.request_id))}
        if moving:
            self.recorder.observe(e for e in events if not (type(e) is Finished and e.request_id in moving))
        else:
            self.recorder.observe(events)
        for event in events:
            if type(event) is FirstToken:
                self.books.first_token(int(event.request_id))
            elif type(event) is Finished:
                self._over(int(event.request_id), event.now_ns, moves=event.request_id in moving)

    def _over(self, place: int, now_ns: int, *, moves: bool) -> None:
        self.books.over(place)
        (self._duties.hand_on if moves else self._duties.ended)(self, place, now_ns)

    def _refuse(self, request: Request) -> None:
        self.recorder.refuse(request)
        place = int(request.request_id)
        self.books.over(place)
        self._duties.refused(self, place, self.clock.now_ns)
