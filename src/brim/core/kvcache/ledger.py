"""Promises and loans of KV blocks: arithmetic on counts, no addresses.

A *promise* is a number of blocks that a request may write after those it held when it was made. As a
rule all promises together fit in the cache, so that nobody can fail in mid-generation; then the half of
it that is not yet written lies idle.

With *lending*, a request is promised blocks that others will need later only: what all of them hold
together must fit at every coming step (see `timetable`). Those whose whole promises fit are *hosts*; a
*guest* is one that fits only because hosts have not yet written what they were promised, and it is the
first to give way when an answer grows longer than expected. A guest may be host to the next in its own
unwritten part, and what it leaves is lent again.

Source: EconoServe (arXiv 2411.06364), exact allocation and KVC pipelining. There a guest gets the second
half of one host's promise; here it may fit into the promises of all hosts together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from brim.core.errors import InvariantViolated
from brim.core.kvcache.timetable import Growth, Timetable
from brim.core.request import RequestView, StepClock

View = TypeVar("View", bound=RequestView)

# A request that has ended keeps its blocks while up to two steps are in flight.
STEPS_TO_LEAVE = 2


class Share:
    """What one request was promised: `blocks` to write after the `base` it held.

    The `owned` of the base come free when it leaves; nobody shares them.
    """

    __slots__ = ("base", "blocks", "growth", "guest", "owned", "view", "written")

    def __init__(self, view: RequestView, owned: Iterable[int], *, guest: bool) -> None:
        self.view = view
        self.base = len(view.block_ids)
        self.owned = set(owned)
        self.guest = guest
        self.blocks = 0
        self.written = 0
        self.growth: Growth | None = None  # as it is in the timetable

    @property
    def own(self) -> int:
        return len(self.owned)

    @property
    def unwritten(self) -> int:
        return self.blocks - self.written


class Ledger:
    """All promises of one KV cache. Requests without a promise are unknown to it.

    Invariant: `unwritten` blocks can be written at any time, since nobody else is given them.
    """

    def __init__(self, block_size: int, clock: StepClock, *, buffer_steps: int | None = None) -> None:
        """Guests are expected to stay `buffer_steps` longer than they should; None: there are none."""
        self.lending = buffer_steps is not None
        self._block_size = block_size
        self._clock = clock
        self._buffer_steps = buffer_steps or 0
        self._shares: dict[str, Share] = {}
        self._guests: dict[Share, None] = {}  # oldest first
        self._owners: dict[int, Share] = {}  # by block, of those owned
        self._hosts_unwritten = 0
        self._guests_unwritten = 0
        self._lent = 0  # held by guests
        self._timetable = Timetable(block_size)  # of all, as far as it comes free when they leave

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, view: RequestView) -> bool:
        return view.request.request_id in self._shares

    @property
    def unwritten(self) -> int:
        """Blocks that may still be written inside promises, at the worst coming step.

        Without guests that is no more than what all hosts have not yet written, and then this is said.
        """
        return self.timetable.unwritten if self._guests else self._hosts_unwritten

    @property
    def promised(self) -> int:
        """Blocks promised to all and not yet written, lent ones too."""
        return self._hosts_unwritten + self._guests_unwritten

    @property
    def lent(self) -> int:
        """Blocks held by guests."""
        return self._lent

    @property
    def kept_for_hosts(self) -> int:
        """Blocks that hosts may still write, and that guests don't hold."""
        return self._hosts_unwritten - self._lent

    @property
    def timetable(self) -> Timetable:
        """What all will hold together, where there is lending; read it, it is not the caller's."""
        tick = self._clock.tick
        if self._timetable.first_end < tick:
            for share in self._shares.values():
                if share.growth is not None and share.growth.until < tick:
                    self._forecast(share)
        return self._timetable

    def growth(self, view: RequestView, own: int, base: int, *, guest: bool) -> Growth:
        """What a request will hold if it runs in every step from now on."""
        tick, tokens = self._clock.tick, view.num_scheduled_tokens
        steps = max(view.expected_tokens - tokens, 1)
        steps += max(self._buffer_steps if guest else 0, STEPS_TO_LEAVE)
        return Growth(tick + steps, tokens + self._block_size - tick, own - base)

    def covers(self, view: RequestView, blocks: int = 1) -> bool:
        """Whether the request's next blocks are inside its promise."""
        share = self._shares.get(view.request.request_id)
        return share is not None and blocks <= share.unwritten

    def held_blocks(self, view: RequestView) -> int:
        """Blocks that it holds or is promised."""
        share = self._shares.get(view.request.request_id)
        return len(view.block_ids) if share is None else share.base + share.blocks

    def is_guest(self, view: RequestView) -> bool:
        share = self._shares.get(view.request.request_id)
        return share is not None and share.guest

    def promise(self, view: RequestView, blocks: int, owned: Iterable[int], *, guest: bool = False) -> None:
        """`blocks` more for the request; the `owned` of those it holds now come free when it leaves."""
        share = self._shares.get(view.request.request_id)
        if share is None:
            share = self._shares[view.request.request_id] = Share(view, owned, guest=guest)
            self._owners.update(dict.fromkeys(share.owned, share))
            self._timetable.held += share.own
            if guest:
                self._guests[share] = None
                self._lent += share.own
        share.blocks += blocks
        self._promised(share, blocks)
        self._forecast(share)

    def write(self, view: RequestView, blocks: int = 1) -> None:
        """The request was given blocks inside its promise. Raises InvariantViolated beyond it."""
        share = self._shares[view.request.request_id]
        share.written += blocks
        self._timetable.held += blocks
        self._promised(share, -blocks)
        if share.guest:
            self._lent += blocks
        if share.unwritten < 0:
            raise InvariantViolated(f"{view} writes beyond its promise")

    def write_next(self, views: Iterable[View]) -> list[View]:
        """Each is given the next block of its promise; returns those that have none left, or no promise."""
        shares, hosts, guests = self._shares, 0, 0
        beyond: list[View] = []
        for view in views:
            share = shares.get(view.request.request_id)
            if share is None or share.written == share.blocks:
                beyond.append(view)
                continue
            share.written += 1
            if share.guest:
                guests += 1
            else:
                hosts += 1
        self._hosts_unwritten -= hosts
        self._guests_unwritten -= guests
        self._lent += guests
        self._timetable.held += hosts + guests
        return beyond

    def release(self, view: RequestView) -> None:
        """The request stops generating: nothing is promised to it any more."""
        share = self._shares.pop(view.request.request_id, None)
        if share is None:
            return
        if share.guest:
            del self._guests[share]
            self._lent -= share.own + share.written
        self._promised(share, -share.unwritten)
        self._timetable.held -= share.own + share.written
        for block_id in share.owned:
            del self._owners[block_id]
        if share.growth is not None:
            self._timetable.remove(share.growth)

    def disown(self, block_ids: Iterable[int]) -> None:
        """These blocks get another holder: they stay when the one leaves whose they were alone."""
        for block_id in block_ids:
            share = self._owners.pop(block_id, None)
            if share is not None:
                share.owned.remove(block_id)
                self._timetable.held -= 1
                self._lent -= share.guest
                self._forecast(share)

    def promote(self, num_available: int) -> None:
        """Guests become hosts, oldest first, as far as their whole promises fit in what has come free."""
        for share in list(self._guests):
            held = share.own + share.written
            if num_available - self.kept_for_hosts < share.unwritten + held:
                return
            self._promised(share, -share.unwritten)
            share.guest = False
            self._promised(share, share.unwritten)
            del self._guests[share]
            self._lent -= held
            self._forecast(share)

    def disturb(self, view: RequestView) -> None:
        """The request sat steps out: it runs from now on, as far as the timetable knows."""
        share = self._shares.get(view.request.request_id)
        if share is not None:
            self._forecast(share)

    def _forecast(self, share: Share) -> None:
        """Enters into the timetable what the share will hold from now on."""
        if not self.lending:
            return
        if share.growth is not None:
            self._timetable.remove(share.growth)
        share.growth = self.growth(share.view, share.own, share.base, guest=share.guest)
        self._timetable.add(share.growth)

    def _promised(self, share: Share, blocks: int) -> None:
        if share.guest:
            self._guests_unwritten += blocks
        else:
            self._hosts_unwritten += blocks

    def check(self, views: Iterable[RequestView]) -> None:
        """Verifies the sums, given those that run. Raises InvariantViolated. Linear: for tests."""
        there = {view.request.request_id for view in views}
        shares = list(self._shares.values())
        hosts, guests = [s for s in shares if not s.guest], [s for s in shares if s.guest]
        sums = (
            (self._hosts_unwritten, sum(share.unwritten for share in hosts)),
            (self._guests_unwritten, sum(share.unwritten for share in guests)),
            (self._lent, sum(share.own + share.written for share in guests)),
            (self._timetable.held, sum(share.own + share.written for share in shares)),
        )
        if any(kept != counted for kept, counted in sums) or set(guests) != set(self._guests):
            raise InvariantViolated(f"the ledger's sums are not those of its shares: {sums}")
        if not set(self._shares) <= there:
            raise InvariantViolated("the ledger knows a request that does not run")
        for share in shares:
            if not 0 <= share.written <= share.blocks:
                raise InvariantViolated(f"{share.view} wrote {share.written} of {share.blocks} blocks")
            if share.base + share.written != len(share.view.block_ids):
                raise InvariantViolated(f"{share.view} holds blocks that the ledger does not know")
        if self._timetable != self._made_anew():
            raise InvariantViolated("the timetable is not that of the shares")

    def _made_anew(self) -> Timetable:
        made = Timetable(self._block_size, self._timetable.held)
        for share in self._shares.values():
            if share.growth is not None:
                made.add(share.growth)
        return made
