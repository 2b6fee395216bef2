"""Which replicas there are: they start, serve, drain, fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from typing import Protocol

from brim.simulation.clock import Clock, Order
from brim.simulation.cluster.books import Books
from brim.simulation.cluster.member import Member, Status
from brim.simulation.cluster.setup import ClusterSetup, Failure, Scaling


class MakeMember(Protocol):
    def __call__(self, number: int, *, decode: bool) -> Member: ...


Recovered = Callable[[dict[int, int], Member | None], None]


class Fleet:
    """The members by number, and their turns on the cluster's clock.

    `recovered` is told what a failed replica lost (and by whom), and that a replica has come up.
    """

    def __init__(
        self,
        setup: ClusterSetup,
        clock: Clock,
        make: MakeMember,
        recovered: Recovered,
        is_over: Callable[[], bool],
    ) -> None:
        self.members: list[Member] = []
        self._clock = clock
        self._make = make
        self._recovered = recovered
        self._is_over = is_over
        self._decoding: set[int] = set()  # numbers of decode replicas
        self._open: list[Member] = []  # those that get new requests
        self._wanted: deque[tuple[int, int]] = deque()  # (time, replicas) as the scaling wanted lately
        scaling = setup.scaling
        for _ in range(scaling.begins_with if scaling else setup.serving.replicas):
            self._up(self._start(decode=False))
        if setup.disaggregation:
            for _ in range(setup.disaggregation.decode.replicas):
                self._up(self._start(decode=True))
        for failure in setup.failures:
            clock.at(failure.at_ns, Order.MARK, lambda failure=failure: self._fail(failure))  # type: ignore[misc]
        if scaling:
            self._wanted.append((clock.now_ns, scaling.begins_with))
            self._look_again(scaling)

    def serving(self) -> Sequence[Member]:
        """Those that new requests may go to."""
        return [member for member in self._open if member.number not in self._decoding]

    @property
    def may_serve(self) -> bool:
        """Whether there is a replica of every kind, or will be."""
        there = {m.number in self._decoding for m in self.members if m.status is not Status.GONE}
        return there == {m.number in self._decoding for m in self.members}

    def takes_more(self, member: Member) -> bool:
        return member.status is Status.UP and member.number not in self._decoding

    def open_books(self, *, decode: bool = False) -> Sequence[Books]:
        return [m.books for m in self._open if (m.number in self._decoding) is decode]

    def announce(self, member: Member) -> None:
        """Lets the cluster's clock know when something of this replica next shows."""
        shows_ns = member.clock.shows_ns
        if shows_ns != member.shown_ns and member.status is not Status.GONE:
            member.shown_ns = shows_ns
            if isinstance(shows_ns, int):
                due_ns = max(shows_ns, self._clock.now_ns)
                self._clock.at(due_ns, Order.STEP, lambda: self._wake(member, shows_ns))

    def eased(self, member: Member, now_ns: int) -> None:
        """A request of it is over: one that drains may be done."""
        if member.status is Status.DRAINING and member.is_idle:
            member.leave(now_ns)

    def _wake(self, member: Member, shows_ns: float) -> None:
        if member.status is Status.GONE or shows_ns != member.shown_ns:
            return  # it was announced anew since
        member.wake(self._clock.now_ns)
        member.shown_ns = -1.0
        self.announce(member)

    # ---- coming and going ------------------------------------------------------------------------------

    def _start(self, *, decode: bool) -> Member:
        member = self._make(len(self.members), decode=decode)
        self.members.append(member)
        if decode:
            self._decoding.add(member.number)
        return member

    def _up(self, member: Member) -> None:
        if member.status is Status.STARTING:
            member.status = Status.UP
            self._open.append(member)

    def _comes_up(self, member: Member) -> None:
        self._up(member)
        self._recovered({}, None)

    def _fail(self, failure: Failure) -> None:
        member = self.members[failure.replica]
        if member.status is Status.GONE:
            return
        lost = member.fail(self._clock.now_ns)
        self._close(member)
        if failure.back_after_ns is not None:
            new = self._start(decode=member.number in self._decoding)
            back_ns = self._clock.now_ns + failure.back_after_ns
            self._clock.at(back_ns, Order.MARK, lambda: self._comes_up(new))
        self._recovered(lost, member)

    def _close(self, member: Member) -> None:
        if member in self._open:
            self._open.remove(member)

    # ---- scaling ---------------------------------------------------------------------------------------

    def _look(self, scaling: Scaling) -> None:
        if self._is_over():
            return
        now_ns = self._clock.now_ns
        mine = [m for m in self.members if m.number not in self._decoding and m.status is not Status.GONE]
        load = sum(member.books.online for member in mine)
        wanted = min(max(ceil(load / scaling.target), scaling.least), scaling.most)
        self._wanted.append((now_ns, wanted))
        while self._wanted[0][0] < now_ns - scaling.scale_down_after_ns:
            self._wanted.popleft()
        staying = [member for member in mine if member.status is not Status.DRAINING]
        for _ in range(wanted - len(staying)):
            new = self._start(decode=False)
            self._clock.at(now_ns + scaling.startup_ns, Order.MARK, lambda new=new: self._comes_up(new))  # type: ignore[misc]
        kept = max(count for _, count in self._wanted)
        for member in staying[kept:]:
            self._drain(member)
        self._look_again(scaling)

    def _drain(self, member: Member) -> None:
        """The newest go first; one that has not started yet goes at once."""
        self._close(member)
        starting = member.status is Status.STARTING
        member.status = Status.DRAINING
        if starting or member.is_idle:
            member.leave(self._clock.now_ns)

    def _look_again(self, scaling: Scaling) -> None:
        self._clock.at(self._clock.now_ns + scaling.interval_ns, Order.MARK, lambda: self._look(scaling))
