"""decide(policy, board, now) -> Decision: the one place where the rules are put together.

It reads a board and returns a value; it changes nothing. Whoever owns the blocks carries the decision
out: `scheduler` on our own pool, an adapter with its host's levers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from brim.core.decision import Board, Decision, Grant
from brim.core.kvcache.timetable import Timetable
from brim.core.policy import Policy
from brim.core.request import RequestView, TaskClass


def decide(policy: Policy, board: Board, now_ns: int) -> Decision:
    """The decision for one step, starting at `now_ns`."""
    draft = Draft(policy, board, now_ns)
    draft.feed_the_starved()
    draft.grant_the_parked()
    draft.fill()
    draft.unblock()
    return Decision(
        draft.preempt,
        draft.pause,
        draft.park,
        draft.admit,
        draft.grants,
        draft.chunk_tokens,
        policy.filling.prompts_alone and bool(draft.chunk_tokens),
        draft.token_budget,
    )


class Draft:
    """A decision in the making, and what is left to give away while it is made."""

    def __init__(self, policy: Policy, board: Board, now_ns: int) -> None:
        self.policy = policy
        self.board = board
        self.now_ns = now_ns
        self.preempt: list[RequestView] = []
        self.pause: list[RequestView] = []
        self.park: list[RequestView] = []
        self.admit: list[RequestView] = []
        self.grants: dict[RequestView, Grant] = {}
        self.chunk_tokens: dict[RequestView, int] = {}
        self.block_size = board.block_size
        self.token_budget = policy.filling.token_budget(now_ns)
        self.tokens = self.token_budget - (0 if policy.filling.prompts_alone else board.num_decoding)
        self.seats = board.max_num_seqs - board.num_running
        self.blocks = board.available_blocks
        self.ordinary = board.ordinary_blocks
        self.blocks_under_way = board.blocks_under_way
        self.taken = 0  # blocks given away so far that nobody gives back
        self.timetable: Timetable | None = None  # made when blocks are lacking without it
        self.spare = policy.admitting.spare_blocks(board.num_blocks)
        self.physical = 0  # blocks of victims that left for somebody displaced
        self.refused = False

    # ---- those that generate, and want a block ---------------------------------------------------------

    def feed_the_starved(self) -> None:
        """Every running request gets a block for its next token; where blocks lack, somebody gives way."""
        if self.policy.promising.binding:
            for view in self.board.starved:
                if view not in self.preempt:
                    self._outgrown(view)
        elif self.board.starved:
            self._preempt_for_the_starved()
        # a victim would come straight back for the blocks it has just given up
        self.refused = bool(self.preempt)

    def _preempt_for_the_starved(self) -> None:
        starving = list(self.board.starved)
        victims = iter(self._victims())
        while len(starving) > self.blocks + self.blocks_under_way:
            victim = next(victims)
            self._evict([victim])
            if victim in starving:
                starving.remove(victim)
        fed = min(self.blocks, len(starving))
        self.blocks -= fed
        self.pause = starving[fed:]

    def _outgrown(self, view: RequestView) -> None:
        """A request at the end of its promise: a new one from what is left, reserve included, or one block.

        Failing that it waits, its KV kept, to be granted more; or another one that does gives way.
        """
        if self.board.covers(view):
            self._displaced(view)
            return
        outputs = self.policy.expecting.output_tokens(view)
        wanted = self._blocks_for(view.num_prompt_tokens + outputs) - self.board.held_blocks(view)
        blocks = max(wanted, 1) if self._has(wanted) else 1
        if not self._has(blocks):
            self._relieve(view)
        if view in self.preempt:
            return
        if self._has(blocks):
            self.grants[view] = Grant(outputs, blocks)
            self._take(blocks)
        else:
            self._stop(view)

    def _relieve(self, view: RequestView) -> None:
        """One that waits with its KV in mid-answer is enough: of it and this one, the newest gives way."""
        stopped = [v for v in (*self.board.parked, *self.park) if v.num_tokens > v.num_prompt_tokens + 1]
        stopped = [v for v in stopped if v not in self.preempt]
        if stopped:
            victim = max([*stopped, view], key=_offline_then_newest)
            self._evict([victim])
            self.park = [v for v in self.park if v is not victim]

    def _displaced(self, view: RequestView) -> None:
        """Others outgrew what was lent to them: the newest of those without a promise of their own leave."""
        if self.board.is_guest(view):
            self._stop(view)
            return
        borrowers = [v for v in self.board.running if self.board.is_guest(v) or v in self.board.parked]
        left = {v for v in borrowers if v is not view and v not in self.preempt and v not in self.grants}
        while left and self.physical < 1:
            victim = max(left, key=_offline_then_newest)
            left.remove(victim)
            self.physical += self._freed([victim])
            self.preempt.append(victim)
        self.park = [v for v in self.park if v not in self.preempt]
        if self.physical < 1 or self.board.releases_delayed:
            self._stop(view)
        else:
            self.physical -= 1

    def _stop(self, view: RequestView) -> None:
        self.park.append(view)
        self.tokens += 1

    # ---- those that wait to generate -------------------------------------------------------------------

    def grant_the_parked(self) -> None:
        """Promises group after group the blocks of their outputs, in order.

        When one does not fit, only members of its own range of the order may follow, and guests.
        """
        if self.park or self.preempt:
            return  # what the others will hold is not known before that is done
        stuck: tuple[float, ...] | None = None
        for view in self._in_groups():
            if self.tokens < 1:
                return
            key = self.policy.ordering.key(view, self.now_ns)
            passes = stuck not in (None, key)
            if (not passes or self.policy.lending) and not self._promise(view, passes):
                stuck = stuck or key
            if stuck and self.policy.lending and not self.policy.lending.may_pass(stuck):
                return

    def _in_groups(self) -> list[RequestView]:
        groups: dict[int, list[RequestView]] = {}
        for view in self.board.parked:
            if not view.ending and view not in self.preempt:
                groups.setdefault(self.policy.grouping.key(view), []).append(view)
        return [view for group in groups.values() for view in group]

    def _promise(self, view: RequestView, passes: bool) -> bool:
        """Grants the request its output's blocks if they fit; as a guest where only the forecast says so."""
        wanted = max(self.policy.promising.tokens(view), view.num_scheduled_tokens + 1)
        blocks = max(self._blocks_for(wanted) - self.board.held_blocks(view), 0)
        keep = self._kept_from_outputs(view)
        guest = self.policy.lending is not None and (passes or blocks > self.ordinary - keep)
        if (guest or not self._has(blocks + keep)) and not self._fits_forecast(view, blocks, keep, guest):
            return False
        self.grants[view] = Grant(view.expected_tokens - view.num_prompt_tokens, blocks, guest)
        if self.timetable is None:
            self.blocks -= blocks
        else:
            self._forecast(view, guest)
        self.ordinary -= 0 if guest else blocks
        self.tokens -= 1
        return True

    def _fits_forecast(self, view: RequestView, blocks: int, keep: int, guest: bool) -> bool:
        timetable = self._tightened()
        if timetable is None or self._is_alone(view):
            return blocks + keep <= self.blocks
        own = self.board.own_blocks(view)
        return timetable.cost(self.board.growth(view, own, guest=guest), own) + keep <= self.blocks

    def _forecast(self, view: RequestView, guest: bool) -> None:
        """Enters a grant into the timetable."""
        assert self.timetable is not None
        own, before = self.board.own_blocks(view), self.timetable.unwritten
        self.timetable.add(self.board.growth(view, own, guest=guest), own)
        self.blocks -= self.timetable.unwritten - before

    def _has(self, blocks: int) -> bool:
        """Whether so many blocks can be given away."""
        if blocks > self.blocks:
            self._tightened()
        return blocks <= self.blocks

    def _tightened(self) -> Timetable | None:
        """From now on `blocks` is what the forecast leaves, where there is lending; without it, None."""
        if self.timetable is None and self.policy.lending:
            self.timetable = self.board.timetable()
            self.blocks = self.board.forecast_blocks - self.taken
            for view, grant in self.grants.items():
                if view in self.board.parked:
                    self._forecast(view, grant.guest)
        return self.timetable

    def _kept_from_outputs(self, view: RequestView) -> int:
        """The reserve, and what is left of the prompts' floor."""
        if self._is_alone(view):
            return 0
        others = [other for other in self._ungranted() if other is not view]
        floor = self.policy.admitting.prompt_blocks(self.board.num_blocks, self.block_size)
        return self.spare + max(floor - sum(self.board.held_blocks(other) for other in others), 0)

    def _take(self, blocks: int) -> None:
        self.blocks -= blocks
        self.taken += blocks

    def _ungranted(self) -> list[RequestView]:
        """Those that hold a prompt, and no promise for their output."""
        if not self.policy.decoupled:
            return []
        there = [*self.board.parked, *self.board.catching_up, *self.park, *self.admit]
        return [view for view in there if view not in self.grants and view not in self.preempt]

    # ---- prompts ---------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Gives what is left of the token budget to half-done prompts and to new requests, in order."""
        for view, waits in self._candidates():
            if waits:
                self.refused = not self._try_admit(view)
            elif view not in self.preempt:
                self._give_chunk(view, view.num_tokens - view.num_scheduled_tokens)

    def _candidates(self) -> Iterator[tuple[RequestView, bool]]:
        """Half-done prompts and, unless victims just gave way, waiting requests (True), in one order."""
        half_done = [view for view in self.board.catching_up if view not in self.pause]
        half_done.sort(key=self._order, reverse=True)
        newcomers = () if self.refused else self.policy.picking.candidates(self.board.waiting, self)
        for view in newcomers:
            while half_done and self._order(half_done[-1]) <= self._order(view):
                yield half_done.pop(), False
            yield view, True
        for view in reversed(half_done):
            yield view, False

    def _order(self, view: RequestView) -> tuple[tuple[float, ...], int]:
        return self.policy.ordering.key(view, self.now_ns), view.arrival_seq

    def _give_chunk(self, view: RequestView, remaining: int) -> None:
        self._free_tokens(view, min(remaining, self.token_budget // 2))
        num_tokens = self.policy.chunking.tokens(view, remaining, max(self.tokens, 0))
        if num_tokens > 0:
            self.chunk_tokens[view] = num_tokens
            self.tokens -= num_tokens

    def _free_tokens(self, view: RequestView, wanted: int) -> None:
        """Pauses those that yield to the request until it can run `wanted` tokens.

        Half a step is enough for it: pausing all would stop their work to gain little.
        """
        if self.tokens >= wanted:
            return
        decoding = [v for v in self._yielding_to(view) if v not in self.board.catching_up]
        paused = decoding[: wanted - self.tokens]
        self.pause += paused
        self.tokens += len(paused)

    def _try_admit(self, view: RequestView) -> bool:
        """Lets the request enter if it can, others giving way if they must."""
        if self.tokens < 1 and self.seats >= 1:
            return False  # the step is full
        alone = self._is_alone(view)
        if not alone and not self._guarded(view):
            return False
        remaining = view.num_tokens - self.board.hit_tokens(view)
        grant = self._grant_of_newcomer(view)
        need = self.board.admission_blocks(view) + grant.blocks
        if self.tokens >= 1 and not self.policy.chunking.tokens(view, remaining, self.tokens):
            return False  # it can't be cut, and is too long for what is left of the step
        if not self._fits(need + (0 if alone else self.spare)) and not self._make_room(view, need):
            return False
        self._give_chunk(view, remaining)
        self._take(need)
        self.ordinary -= need
        self.seats -= 1
        self.admit.append(view)
        if self.policy.promising.binding and not self.policy.decoupled:
            self.grants[view] = grant
        return True

    def _grant_of_newcomer(self, view: RequestView) -> Grant:
        outputs = view.expected_tokens - view.num_prompt_tokens
        if self.policy.decoupled:
            return Grant(outputs, 0)
        wanted = self._blocks_for(self.policy.promising.tokens(view))
        return Grant(outputs, wanted - self._blocks_for(view.num_tokens))

    def _guarded(self, view: RequestView) -> bool:
        if not self.policy.decoupled:
            return True
        together, board = [*self._ungranted(), view], self.board
        return self.policy.admitting.allows(together, board.num_blocks, board.block_size, self.blocks)

    def _is_alone(self, view: RequestView) -> bool:
        others = self.board.num_running - len(self.preempt) + len(self.admit) - (view in self.board.parked)
        return others <= 0

    def _fits(self, blocks: int) -> bool:
        return self.seats >= 1 and self._has(blocks)

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # ---- who gives way ---------------------------------------------------------------------------------

    def unblock(self) -> None:
        """Where nothing runs and nothing can be granted, the parked that loses least gives way."""
        generating = self.board.num_decoding - len(self.park) - len(self.pause)
        idle = not (generating > 0 or self.grants or self.chunk_tokens or self.board.releases_delayed)
        parked = [view for view in self.board.parked if view not in self.preempt]
        if idle and len(parked) > 1:
            self.preempt.append(min(parked[1:], key=lambda v: (v.num_preemptions, v.num_computed_tokens)))

    def _make_room(self, view: RequestView, need: int) -> bool:
        """Preempts the fewest of those that yield to the request; nobody where all of them would not do.

        No spare is asked for: those who would yield are the spare. False where the request can't enter
        in this step, be it that victims' blocks are still under way.
        """
        yielding = self._yielding_to(view)
        lacking = need - self.blocks - self.blocks_under_way
        lengths = range(len(yielding) + 1)
        enough = max(1 - self.seats, bisect_left(lengths, lacking, key=lambda n: self._freed(yielding[:n])))
        if not yielding or enough > len(yielding):
            return False
        self._evict(yielding[: max(enough, 0)])
        return self._fits(need)

    def _yielding_to(self, view: RequestView) -> list[RequestView]:
        if not self.policy.preempting.for_newcomers:
            return []
        return [v for v in self._victims() if self.policy.preempting.yields_to(v, view)]

    def _victims(self) -> list[RequestView]:
        """The running that are left, first to give way first; who ends by itself need not."""
        out = {*self.preempt, *self.pause, *self.chunk_tokens}
        left = [view for view in self.board.running if view not in out and not view.ending]
        return sorted(left, key=lambda view: self.policy.preempting.key(view, self.now_ns))

    def _freed(self, victims: Sequence[RequestView]) -> int:
        """Blocks that come free with these victims; what several share comes with the last of them."""
        together = self.board.freeable_blocks([*self.preempt, *victims])
        return together - self.board.freeable_blocks(self.preempt)

    def _evict(self, victims: Sequence[RequestView]) -> None:
        freed = self._freed(victims)
        if self.board.releases_delayed:
            self.blocks_under_way += freed
        else:
            self.blocks += freed
        self.preempt += victims
        self.seats += len(victims)
        idle = (*self.board.catching_up, *self.board.parked, *self.park)
        self.tokens += sum(victim not in idle for victim in victims)


def _offline_then_newest(view: RequestView) -> tuple[bool, int]:
    """Who gives way first has the largest key."""
    return view.request.task_class is TaskClass.OFFLINE, view.arrival_seq
