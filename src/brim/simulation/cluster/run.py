"""simulate_cluster(arrivals, setup) -> ClusterRun: a stream of requests, many replicas, one router."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from brim.core.request import SLO, Request, SamplingParams, TaskClass
from brim.metrics.histogram import Histogram
from brim.metrics.merging import merged
from brim.metrics.recorder import ClassMetrics, Track
from brim.simulation.clock import Clock, Order
from brim.simulation.cluster.backlog import Backlog
from brim.simulation.cluster.fleet import Fleet
from brim.simulation.cluster.member import Duties, Member
from brim.simulation.cluster.setup import ClusterSetup
from brim.simulation.cluster.underway import Stream, Underway
from brim.simulation.cluster.windows import Noted, note
from brim.simulation.garbage import collected_seldom
from brim.simulation.truth import STOPS, Fillers, refuse_unchained
from brim.workloads.trace import NANOSECONDS, Trace, TraceRequest


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """What came of it. `notes` are cumulative, one for each window's end and one for the end of all."""

    setup: ClusterSetup
    by_class: dict[TaskClass, ClassMetrics[Histogram]]
    notes: list[Noted]
    replicas: int  # that ever were
    backlog_left: int  # offline requests that nobody had begun
    offline_done_ns: int | None  # when the last offline request ended; None where some are left
    unserved: int  # online requests that waited for a replica at the end
    wall_seconds: float


def simulate_cluster(
    arrivals: Trace | Stream,
    setup: ClusterSetup,
    *,
    spare: Iterable[Sequence[TraceRequest]] = (),
    done: Callable[[], None] | None = None,
    stopwatch: Callable[[], float] = perf_counter,
) -> ClusterRun:
    """Runs all requests of a trace, each read when the one before it has arrived.

    `spare` are offline requests besides, in batches that are read as replicas have room: what begins alike
    goes to the same replica where it is one batch. There may be no end of them, where the setup says when to
    stop. For one that is refused no other is read until something ends on its replica, or a window does.
    `done` is called for each request that is over. Raises ConfigError where block ids of a trace don't name
    all tokens before them.
    """
    started = stopwatch()
    if isinstance(arrivals, Trace):
        refuse_unchained(arrivals)
    with collected_seldom():
        cluster = _Cluster(arrivals, iter(spare), setup, done or (lambda: None))
        cluster.clock.run()
    return cluster.outcome(stopwatch() - started)


class _Cluster:
    def __init__(
        self,
        arrivals: Trace | Stream,
        spare: Iterator[Sequence[TraceRequest]],
        setup: ClusterSetup,
        done: Callable[[], None],
    ) -> None:
        self.clock = Clock()
        self._setup = setup
        self._arrivals = iter(arrivals.requests)
        self._spare = spare
        self._done = done
        self._underway = Underway(arrivals.name, arrivals.block_tokens)
        self._backlog = Backlog()
        self._tracks: dict[int, Track[Histogram]] = {}  # of requests between two replicas
        self._homeless: deque[int] = deque()  # online requests while no replica is up
        self._undelivered: deque[int] = deque()  # prompts while no decode replica is up
        self._sampling: dict[int, SamplingParams] = {}
        self._num_sent = 0
        self._end_ns = 0  # when the last request ended
        self._offline_end_ns = 0
        self._exhausted = False
        self._notes: list[Noted] = []
        self._fleet = Fleet(setup, self.clock, self._member, self._recovered, self._is_over)
        self._next_arrival()
        self._share_backlog()
        self.clock.at(setup.window_ns, Order.MARK, self._mark)
        if setup.stop_ns is not None:
            self.clock.at(setup.stop_ns, Order.MARK, self.clock.stop)

    def outcome(self, wall_seconds: float) -> ClusterRun:
        for member in self._fleet.members:
            member.look(self.clock.now_ns)
        self._note(self._end_ns if self._is_over() else self.clock.now_ns)
        offline_left = any(r.task_class is TaskClass.OFFLINE for r in self._underway.asked.values())
        return ClusterRun(
            self._setup,
            {c: merged(m.recorder.by_class[c] for m in self._fleet.members) for c in TaskClass},
            self._notes,
            len(self._fleet.members),
            len(self._backlog),
            None if offline_left else self._offline_end_ns,
            len(self._homeless) + len(self._undelivered),
            wall_seconds,
        )

    # ---- arrivals --------------------------------------------------------------------------------------

    def _next_arrival(self) -> None:
        """The next request is read when it is due: a long trace costs no memory before its time."""
        asked = next(self._arrivals, None)
        if asked is None:
            self._exhausted = True
        else:
            self.clock.at(asked.arrival_ns, Order.ARRIVAL, lambda: self._arrive(asked))

    def _arrive(self, asked: TraceRequest) -> None:
        place = self._underway.arrive(self._setup.cut(asked))
        if asked.task_class is TaskClass.OFFLINE:
            self._backlog.add(place, asked)
            self._share_backlog()
        else:
            self._route(place)
        self._next_arrival()

    def _route(self, place: int) -> None:
        """To a replica that begins with the prompt."""
        replicas = self._fleet.open_books()
        if not replicas:
            self._homeless.append(place)
            return
        if self._moves_on_later(place):
            self._underway.only_first_token(place)
        asked = self._underway.requests[place]
        books = self._setup.serving.routing.pick(
            replicas, asked, self._judged_by(self._underway.asked[place])
        )
        self._send(self._fleet.members[books.number], place)

    def _send(self, member: Member, place: int) -> None:
        asked = self._underway.requests[place]
        offline = asked.task_class is TaskClass.OFFLINE
        member.books.send(place, asked, is_offline=offline, sequence=self._num_sent)
        self._num_sent += 1
        if track := self._tracks.pop(place, None):
            member.recorder.take_over(track)
        member.submit(self._request(place), self.clock.now_ns)
        self._fleet.announce(member)

    def _share_backlog(self) -> None:
        for member in self._fleet.serving():
            self._fill(member)

    def _fill(self, member: Member, *, reads: bool = True) -> None:
        """Keeps so many offline requests at a replica as it could run at once; `reads` those to spare too."""
        depth = self._setup.offline_depth or member.pool.config.max_num_seqs
        while self._fleet.takes_more(member) and member.books.offline < depth:
            if reads and not self._backlog.offers(member.number):
                self._read_spare()
            if not self._backlog:
                return
            place, _ = self._backlog.fetch(member.number)
            self._send(member, place)

    def _read_spare(self) -> None:
        """One more batch, where there is one and it is not too late for it."""
        until_ns, now_ns = self._setup.spare_until_ns, self.clock.now_ns
        if until_ns is not None and now_ns >= until_ns:
            return
        for asked in next(self._spare, ()):
            asked = asked._replace(arrival_ns=now_ns, task_class=TaskClass.OFFLINE)
            self._backlog.add(self._underway.arrive(self._setup.cut(asked)), asked)

    # ---- what replicas tell ----------------------------------------------------------------------------

    def _moves_on(self, place: int) -> bool:
        """Whether a request that ends on a replica goes on at another one."""
        drawn = self._underway.drawn(place)
        whole = self._underway.asked[place].output_tokens
        return drawn + self._underway.requests[place].output_tokens < whole

    def _moves_on_later(self, place: int) -> bool:
        return self._setup.disaggregation is not None and self._underway.requests[place].output_tokens > 1

    def _ended(self, member: Member, place: int, now_ns: int) -> None:
        self._over(member, place, now_ns, reads=True)

    def _refused(self, member: Member, place: int, now_ns: int) -> None:
        """Its seat is for one that came: who is read instead might be refused at once as well, for ever."""
        self._over(member, place, now_ns, reads=False)

    def _over(self, member: Member, place: int, now_ns: int, *, reads: bool) -> None:
        asked = self._underway.drop(place)
        self._end_ns = max(self._end_ns, now_ns)
        self._done()
        if asked.task_class is TaskClass.OFFLINE:
            self._offline_end_ns = max(self._offline_end_ns, now_ns)
            self.clock.at(now_ns, Order.ARRIVAL, lambda: self._fill(member, reads=reads))
        self._fleet.eased(member, now_ns)

    def _hand_on(self, member: Member, place: int, now_ns: int) -> None:
        """Its KV cache goes to a decode replica, behind what is on the way already."""
        disaggregation = self._setup.disaggregation
        assert disaggregation is not None
        if track := member.recorder.hand_over(str(place), 1):
            self._tracks[place] = track
        tokens = self._underway.requests[place].input_tokens
        member.link_free_ns = max(member.link_free_ns, now_ns) + disaggregation.transfer_ns(tokens)
        self.clock.at(member.link_free_ns, Order.ARRIVAL, lambda: self._receive(place))

    def _receive(self, place: int) -> None:
        disaggregation = self._setup.disaggregation
        assert disaggregation is not None
        replicas = self._fleet.open_books(decode=True)
        if not replicas:
            self._undelivered.append(place)
            return
        self._underway.go_on(place, 1)
        books = disaggregation.decode.routing.pick(replicas, self._underway.requests[place], SLO())
        self._send(self._fleet.members[books.number], place)

    def _recovered(self, lost: dict[int, int], member: Member | None) -> None:
        """Requests that a replica lost, and a replica that came up: nothing is forgotten."""
        for place, drawn_tokens in sorted(lost.items()):
            assert member is not None
            if track := member.recorder.hand_over(str(place), drawn_tokens):
                self._tracks[place] = track
            self._underway.go_on(place, drawn_tokens)
            asked = self._underway.requests[place]
            if asked.task_class is TaskClass.OFFLINE:
                self._backlog.add(place, asked, first=True)
            else:
                self._homeless.append(place)
        for _ in range(len(self._homeless)):
            self._route(self._homeless.popleft())
        for _ in range(len(self._undelivered)):
            self._receive(self._undelivered.popleft())
        self._share_backlog()

    # ---- members and requests --------------------------------------------------------------------------

    def _member(self, number: int, *, decode: bool) -> Member:
        setup = self._setup
        pool = setup.serving
        if decode:
            assert setup.disaggregation is not None
            pool = setup.disaggregation.decode
        return Member(
            number,
            pool,
            self._underway,
            Duties(
                self._ended,
                self._refused,
                self._moves_on if setup.disaggregation else None,
                self._hand_on,
            ),
            lambda request: request.arrival_ns >= setup.count_from_ns,
            self._judged,
            now_ns=self.clock.now_ns,
            skip=setup.skip,
        )

    def _request(self, place: int) -> Request:
        """What a scheduler may know of what is left of it."""
        left, whole = self._underway.requests[place], self._underway.asked[place]
        drawn = self._underway.drawn(place)
        most = self._setup.max_tokens(whole.input_tokens) - drawn
        if self._moves_on(place):
            most = 1
        due_ns = (
            None if whole.deadline_s is None else whole.arrival_ns + round(whole.deadline_s * NANOSECONDS)
        )
        return Request(
            str(place),
            Fillers(left.input_tokens),
            self._sampling_for(max(most, 1)),
            whole.task_class,
            whole.arrival_ns,
            deadline_ns=due_ns,
            slo=self._setup.targets.told(whole, self._setup.serving.machine),
            length_keys=(whole.length_key,) if whole.length_key else (),
        )

    def _sampling_for(self, max_tokens: int) -> SamplingParams:
        if max_tokens not in self._sampling:
            self._sampling[max_tokens] = SamplingParams(max_tokens=max_tokens, stop_token_ids=STOPS)
        return self._sampling[max_tokens]

    def _judged(self, request: Request) -> SLO:
        return self._judged_by(self._underway.asked[int(request.request_id)])

    def _judged_by(self, asked: TraceRequest) -> SLO:
        return self._setup.targets.of(asked, self._setup.serving.machine)

    # ---- figures over time -----------------------------------------------------------------------------

    def _mark(self) -> None:
        if self._is_over():
            return
        for member in self._fleet.members:
            member.look(self.clock.now_ns)
            self._fleet.announce(member)
        self._note(self.clock.now_ns)
        self._share_backlog()
        self.clock.at(self.clock.now_ns + self._setup.window_ns, Order.MARK, self._mark)

    def _is_over(self) -> bool:
        """All have ended, or whoever is left waits for replicas of which none will come."""
        stuck = len(self._homeless) + len(self._undelivered) + len(self._backlog)
        return self._exhausted and len(self._underway) == (0 if self._fleet.may_serve else stuck)

    def _note(self, now_ns: int) -> None:
        self._notes.append(note(now_ns, self._fleet.members, len(self._backlog)))
