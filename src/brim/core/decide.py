"""decide(policy, board, now) -> Decision: the one place where the rules are put together.

It reads a board and returns a value; it changes nothing. Whoever owns the blocks carries the decision
out: `scheduler` on our own pool, an adapter with its host's levers.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice

from brim.core.budget import Budget
from brim.core.decision import Board, Decision, Grant
from brim.core.estimators.slack import Miss
from brim.core.offline.planning import Offer
from brim.core.online_part import online_step, prompt_works, view_is_offline
from brim.core.policies.preempting import least_loss
from brim.core.policy import Policy
from brim.core.request import RequestView, TaskClass
from brim.core.time_left import TimeLeft


def decide(policy: Policy, board: Board, now_ns: int) -> Decision:
    """The decision for one step, starting at `now_ns`."""
    draft = Draft(policy, board, now_ns)
    draft.feed_the_starved()
    draft.grant_the_parked()
    draft.fill()
    draft.add_from_pool()
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
        draft.miss,
    )


class Draft:
    """A decision in the making; `budget` is what is left to give away."""

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
        self.token_budget = policy.filling.token_budget(now_ns)
        decoding = 0 if policy.filling.prompts_alone else board.num_decoding
        self.budget = Budget(board, self.token_budget - decoding, lending=policy.lending is not None)
        self.spare = policy.admitting.spare_blocks(board.num_blocks)
        self.prompt_tokens: int | None = None  # of online requests, where they may not fill the step
        self.time: TimeLeft | None = None  # for offline requests, once the online part is known
        self.miss: Miss | None = None
        self.offline_tokens = policy.filling.offline_tokens - board.load(TaskClass.OFFLINE).num_decodes
        self.offline_blocks = sys.maxsize
        if policy.headroom is not None:
            self.offline_blocks = policy.headroom.offline_limit(board.online_blocks) - board.offline_blocks

    # ---- those that generate, and want a block ---------------------------------------------------------

    def feed_the_starved(self) -> None:
        """Every running request gets a block for its next token; where blocks lack, somebody gives way."""
        if not self.policy.promising.binding:
            self._preempt_for_the_starved()
        else:
            outgrown = [view for view in self.board.starved if not self.board.covers(view)]
            self._displace([view for view in self.board.starved if view not in outgrown])
            for view in outgrown:
                if view not in self.preempt:
                    self._outgrown(view)
        # a victim would come straight back for the blocks it has just given up
        self.budget.refused = bool(self.preempt)

    def _preempt_for_the_starved(self) -> None:
        starving = list(self.board.starved)
        if not starving:
            return
        victims = iter(self._victims())
        while len(starving) > self.budget.blocks + self.budget.blocks_under_way:
            victim = next(victims)
            self._evict([victim])
            if victim in starving:
                starving.remove(victim)
        fed = min(self.budget.blocks, len(starving))
        self.budget.take(fed)
        self.pause = starving[fed:]

    def _displace(self, displaced: Sequence[RequestView]) -> None:
        """Others outgrew what was lent to them: the newest of those without a promise of their own leave.

        A host goes on with a victim's block; where it is not free in time, and a guest always, it waits.
        """
        hosts = [view for view in displaced if not self.board.is_guest(view)]
        victims = self._borrowers_of(len(hosts)) if hosts else []
        freed = 0 if self.board.releases_delayed else self._freed(victims)
        self._drop(victims)
        for view in [*hosts[freed:], *(view for view in displaced if view not in hosts)]:
            if view not in victims:
                self._stop(view)

    def _borrowers_of(self, blocks: int) -> list[RequestView]:
        """The fewest whose blocks are enough, or all."""
        borrowers = [v for v in self.board.running if self.board.is_guest(v) or v in self.board.parked]
        borrowers.sort(key=_offline_then_newest, reverse=True)
        enough = bisect_left(range(len(borrowers)), blocks, key=lambda n: self._freed(borrowers[:n]))
        return borrowers[:enough]

    def _outgrown(self, view: RequestView) -> None:
        """A request at the end of its promise: a new one from what is left, reserve included, or one block.

        Failing that it waits, its KV kept, to be granted more; or another one that does gives way.
        """
        outputs = self.policy.expecting.output_tokens(view)
        held = self.board.held_blocks(view)
        wanted = self.budget.blocks_for(view.num_prompt_tokens + outputs) - held
        blocks = max(wanted, 1) if self.budget.has(wanted) else 1
        if not self.budget.has(blocks):
            self._relieve(view)
        if view in self.preempt:
            return
        if self.budget.has(blocks):
            self.grants[view] = Grant(outputs, blocks)
            self.budget.take(blocks)
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

    def _stop(self, view: RequestView) -> None:
        self.park.append(view)
        self.budget.tokens += 1

    # ---- those that wait to generate -------------------------------------------------------------------

    def grant_the_parked(self) -> None:
        """Promises group after group the blocks of their outputs, in order.

        When one does not fit, only members of its own range of the order may follow; and guests, those
        first that stay longest.
        """
        if self.park or self.preempt:
            return  # what the others will hold is not known before that is done
        lending, stuck = self.policy.lending, None
        passing: list[RequestView] = []
        for view in self._in_groups():
            place = self.board.parked.key(view)
            if stuck not in (None, place):
                passing.append(view)
            elif not self._promise(view):
                stuck = place
        if lending and stuck and lending.may_pass(stuck):
            for view in sorted(passing, key=lambda view: view.num_tokens - view.expected_tokens):
                self._promise(view, passes=True)

    def _in_groups(self) -> list[RequestView]:
        groups: dict[int, list[RequestView]] = {}
        for view in self.board.parked:
            if not view.ending:
                groups.setdefault(self.policy.grouping.key(view), []).append(view)
        return [view for group in groups.values() for view in group]

    def _promise(self, view: RequestView, *, passes: bool = False) -> bool:
        """Grants the request its output's blocks if they fit; as a guest where only the forecast says so."""
        if self.budget.tokens < 1:
            return False
        wanted = max(self.policy.promising.tokens(view), view.num_scheduled_tokens + 1)
        blocks = max(self.budget.blocks_for(wanted) - self.board.held_blocks(view), 0)
        alone = self._is_alone(view)
        keep = 0 if alone else self._kept_from_outputs(view)
        lent = passes or not self.budget.is_ordinary(blocks + keep)
        guest = self.policy.lending is not None and lent
        if not (self.budget.has(blocks) if alone else self.budget.fits(view, blocks, keep, guest=guest)):
            return False
        self.budget.promise(view, blocks, guest=guest)
        self.grants[view] = Grant(view.expected_tokens - view.num_prompt_tokens, blocks, guest)
        self.budget.tokens -= 1
        return True

    def _kept_from_outputs(self, view: RequestView) -> int:
        """The reserve, and what is left of the prompts' floor."""
        held = sum(self.board.held_blocks(other) for other in self._ungranted() if other is not view)
        floor = self.policy.admitting.prompt_blocks(self.board.num_blocks, self.board.block_size)
        return self.spare + max(floor - held, 0)

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
            if view_is_offline(view):
                self._turn_to_offline()
            if waits:
                self.budget.refused = not self._try_admit(view)
            elif view not in self.preempt:
                self._give_chunk(view, view.num_tokens - view.num_scheduled_tokens)

    def _candidates(self) -> Iterator[tuple[RequestView, bool]]:
        """Half-done prompts and, unless victims just gave way, waiting requests (True), in one order."""
        half_done = [view for view in self.board.catching_up if view not in self.pause]
        half_done.sort(key=self._order, reverse=True)
        for view in self._newcomers():
            while half_done and self._order(half_done[-1]) <= self._order(view):
                yield half_done.pop(), False
            yield view, True
        for view in reversed(half_done):
            yield view, False

    def _newcomers(self) -> Iterator[RequestView]:
        if self.budget.refused:
            return iter(())
        return self.policy.picking.candidates(self.board.waiting, self.budget)

    def _order(self, view: RequestView) -> tuple[tuple[float, ...], int]:
        return self.policy.ordering.key(view, self.now_ns), view.arrival_seq

    def _give_chunk(self, view: RequestView, remaining: int) -> None:
        self._free_tokens(view, min(remaining, self.token_budget // 2))
        num_tokens = self.policy.chunking.tokens(view, remaining, self._tokens_for(view, remaining))
        if num_tokens < 1:
            return
        self.chunk_tokens[view] = num_tokens
        self.budget.tokens -= num_tokens
        if view_is_offline(view):
            self.offline_tokens -= num_tokens
            if self.time is not None:
                self.time.add_chunk(self._start(view), num_tokens)
        elif self.prompt_tokens is not None:
            self.prompt_tokens -= num_tokens

    def _tokens_for(self, view: RequestView, remaining: int) -> int:
        """What is left of the step for a request of its class."""
        most = max(min(self.budget.tokens, remaining), 0)
        if view_is_offline(view):
            most = max(min(most, self.offline_tokens), 0)
            return self.time.chunk(self._start(view), most) if self.time is not None else most
        if self.policy.timing is None:
            return most
        if self.prompt_tokens is None:
            alone = online_step(self.policy.timing, self.board, self.now_ns, self._stopped(), [])
            self.prompt_tokens = self.policy.timing.prompt_tokens(alone, self.token_budget)
        return max(min(most, self.prompt_tokens), 0)

    def _start(self, view: RequestView) -> int:
        """The first token that it computes in this step."""
        return view.num_scheduled_tokens or self.board.hit_tokens(view)

    def _free_tokens(self, view: RequestView, wanted: int) -> None:
        """Pauses those that yield to the request until it can run `wanted` tokens.

        Half a step is enough for it: pausing all would stop their work to gain little.
        """
        lacking = wanted - self.budget.tokens
        if lacking <= 0:
            return
        decoding = [v for v in self._yielding_to(view) if v not in self.board.catching_up]
        paused = decoding[:lacking]
        self.pause += paused
        self.budget.tokens += len(paused)

    def _try_admit(self, view: RequestView) -> bool:
        """Lets the request enter if it can, others giving way if they must."""
        if self.budget.tokens < 1 and self.budget.seats >= 1:
            return False  # the step is full
        alone = self._is_alone(view)
        if not alone and not self._guarded(view):
            return False
        remaining = view.num_tokens - self.board.hit_tokens(view)
        grant = self._grant_of_newcomer(view)
        need = self.board.admission_blocks(view) + grant.blocks
        tokens = self._tokens_for(view, remaining)
        if self.budget.tokens >= 1 and not self.policy.chunking.tokens(view, remaining, tokens):
            return False  # it can't be cut, or there is no time
        if view_is_offline(view) and need > self.offline_blocks:
            return False
        if not self._fits(need + (0 if alone else self.spare)) and not self._make_room(view, need):
            return False
        self._give_chunk(view, remaining)
        self.budget.take(need)
        self.budget.seats -= 1
        self.offline_blocks -= need * view_is_offline(view)
        self.admit.append(view)
        if self.policy.promising.binding and not self.policy.decoupled:
            self.grants[view] = grant
        return True

    def _grant_of_newcomer(self, view: RequestView) -> Grant:
        outputs = view.expected_tokens - view.num_prompt_tokens
        if self.policy.decoupled:
            return Grant(outputs, 0)
        wanted = self.budget.blocks_for(self.policy.promising.tokens(view))
        return Grant(outputs, wanted - self.budget.blocks_for(view.num_tokens))

    def _guarded(self, view: RequestView) -> bool:
        if not self.policy.decoupled:
            return True
        together, board = [*self._ungranted(), view], self.board
        return self.policy.admitting.allows(together, board.num_blocks, board.block_size, self.budget.blocks)

    def _is_alone(self, view: RequestView) -> bool:
        others = self.board.num_running - len(self.preempt) + len(self.admit) - (view in self.board.parked)
        return others <= 0

    def _fits(self, blocks: int) -> bool:
        return self.budget.seats >= 1 and self.budget.has(blocks)

    # ---- offline requests, in the time that online ones leave ------------------------------------------

    def _turn_to_offline(self) -> None:
        """The online part of the step is known: offline requests get the time that it leaves."""
        timing, board = self.policy.timing, self.board
        if timing is None or self.time is not None:
            return
        half_done = sorted((view for view in board.catching_up if not view.ending), key=self._order)
        running = [view for view in (*half_done, *self.admit) if view not in self.preempt]
        works = prompt_works(timing, board, running, self.chunk_tokens)
        step = online_step(timing, board, self.now_ns, self._stopped(), works)
        limit = timing.limit(step)
        self.miss = limit.miss
        self.time = TimeLeft(timing.steps.guarded_ns, step.shape, limit.limit_ns, board.block_size)
        self._pause_offline(self.time)

    def _stopped(self) -> set[RequestView]:
        """Those that decode at present and won't in this step."""
        out = {*self.preempt, *self.pause, *self.park}
        return out.difference(self.board.catching_up, self.board.parked)

    def _pause_offline(self, time: TimeLeft) -> None:
        """Offline requests that decode go on as far as there is time; the first to give way sit out."""
        if not self._stopped() and time.add_all(*self.board.load(TaskClass.OFFLINE)):
            return
        idle = {*self.board.catching_up, *self.board.parked, *self.park}
        decoding = [view for view in self._victims() if view_is_offline(view) and view not in idle]
        left_out = time.add_last([view.num_scheduled_tokens + 1 for view in decoding])
        self.pause += decoding[:left_out]
        self.budget.tokens += left_out

    def add_from_pool(self) -> None:
        """Adds offline requests one by one, as long as each makes the step better."""
        self._turn_to_offline()
        planning, time = self.policy.planning, self.time
        if planning is None or time is None or self.budget.refused:
            return
        if not self._has_room():
            return
        heads = {next(family): family for family in self.board.offline_families(planning.families)}
        gain_ns = planning.work_ns(time.offline_part)
        while heads and self._has_room():
            best = planning.best([offer for view in heads if (offer := self._offer(view))], time, gain_ns)
            if best is None:
                return
            if self._try_admit(best.view):
                gain_ns += planning.gain_ns(best)
            family = heads.pop(best.view)
            heads |= {view: family for view in islice(family, 1) if view not in self.admit}

    def _has_room(self) -> bool:
        return self.budget.tokens >= 1 and self.budget.seats >= 1 and self.offline_blocks >= 1

    def _offer(self, view: RequestView) -> Offer | None:
        """None where the step has no time for a chunk worth its while."""
        start = self.board.hit_tokens(view)
        remaining = view.num_tokens - start
        tokens = self._tokens_for(view, remaining)
        if tokens < min(remaining, self.board.block_size):
            return None
        fresh = self.budget.blocks_for(view.num_tokens) - start // self.board.block_size
        return Offer(view, start, tokens, self.board.wanted_among(fresh))

    # ---- who gives way ---------------------------------------------------------------------------------

    def unblock(self) -> None:
        """Where nothing runs and nothing can be granted, the parked that loses least gives way.

        The first in order stays: with each that leaves it comes nearer to its output's blocks.
        """
        generating = self.board.num_decoding - len(self.park) - len(self.pause)
        idle = not (generating > 0 or self.grants or self.chunk_tokens or self.board.releases_delayed)
        parked = [view for view in self.board.parked if view not in self.preempt]
        if idle and len(parked) > 1:
            self.preempt.append(min(parked[1:], key=least_loss))

    def _make_room(self, view: RequestView, need: int) -> bool:
        """Preempts the fewest of those that yield to the request; nobody where all of them would not do.

        No spare is asked for: those who would yield are the spare. False where the request can't enter
        in this step, be it that victims' blocks are still under way.
        """
        yielding = self._yielding_to(view)
        lacking = need - self.budget.blocks - self.budget.blocks_under_way
        numbers = range(len(yielding) + 1)
        enough = bisect_left(numbers, lacking, key=lambda n: self._freed(yielding[:n]))
        enough = max(1 - self.budget.seats, enough)
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
        self.budget.gain(self._freed(victims), at_once=not self.board.releases_delayed)
        self._drop(victims)

    def _drop(self, victims: Sequence[RequestView]) -> None:
        """The victims lose seat and token; their blocks are not for everybody."""
        self.preempt += victims
        self.budget.seats += len(victims)
        idle = (*self.board.catching_up, *self.board.parked, *self.park)
        self.budget.tokens += sum(victim not in idle for victim in victims)


def _offline_then_newest(view: RequestView) -> tuple[bool, int]:
    """Who gives way first has the largest key."""
    return view.request.task_class is TaskClass.OFFLINE, view.arrival_seq
