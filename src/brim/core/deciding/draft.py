"""A decision in the making: what was decided so far, what is left, and who would give way."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

from brim.core.deciding.budget import Budget
from brim.core.deciding.time_left import TimeLeft
from brim.core.decision import Board, Decision, Grant
from brim.core.estimators.slack import Miss, OnlineStep, PromptWork
from brim.core.policy import Policy
from brim.core.request import RequestView, TaskClass


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
        self.token_budget = policy.filling.token_budget
        decoding = 0 if policy.filling.prompts_alone else board.num_decoding
        self.budget = Budget(board, self.token_budget - decoding, lending=policy.lending is not None)
        self.spare = policy.admitting.spare_blocks(board.num_blocks)
        # the online step with its prompts in final order; None until someone asked
        self.ordered_step: OnlineStep | None = None
        self.prompt_tokens: int | None = None  # left to online prompts; None until someone asked
        self.works: dict[RequestView, PromptWork] = {}  # found so far, as if nothing ran in this step
        self.time: TimeLeft | None = None  # for offline requests, once the online part is known
        self.miss: Miss | None = None

    @cached_property
    def offline_tokens(self) -> int:
        """What offline requests may still run in the step."""
        return self.policy.filling.offline_tokens - self.board.load(TaskClass.OFFLINE).num_decodes

    @cached_property
    def offline_blocks(self) -> int:
        """What offline requests may still take."""
        if self.policy.headroom is None:
            return sys.maxsize
        return self.policy.headroom.offline_limit(self.board.online_blocks) - self.board.offline_blocks

    def decision(self) -> Decision:
        return Decision(
            self.preempt,
            self.pause,
            self.park,
            self.admit,
            self.grants,
            self.chunk_tokens,
            self.policy.filling.prompts_alone and bool(self.chunk_tokens),
            self.miss,
        )

    def half_done(self) -> list[RequestView]:
        """Those catching up that are neither paused nor parked now, and whose last token is still to come."""
        out = {*self.pause, *self.park}
        return [v for v in self.board.catching_up if not v.ending and v not in out]

    def victims(self) -> list[RequestView]:
        """The running requests that may be preempted, who gives way first in front.

        Not those paused or given a chunk by this decision, nor those whose last token is in flight.
        """
        return self._in_turn(self.board.running)

    def decoding_offline(self) -> list[RequestView]:
        """Of the `victims` the offline ones that draw a token in every step."""
        sitting_out = {*self.board.catching_up, *self.board.parked, *self.park}
        decoding = [v for v in self.board.running if v.request.is_offline and v not in sitting_out]
        return self._in_turn(decoding)

    def yielding_to(self, view: RequestView) -> list[RequestView]:
        """The `victims` that would give way so that this waiting request can enter."""
        if not self.policy.preempting.for_newcomers:
            return []
        return self._in_turn([v for v in self.board.running if self.policy.preempting.yields_to(v, view)])

    def _in_turn(self, running: Iterable[RequestView]) -> list[RequestView]:
        out = {*self.preempt, *self.pause, *self.chunk_tokens}
        left = [view for view in running if view not in out and not view.ending]
        return sorted(left, key=lambda view: self.policy.preempting.key(view, self.now_ns))

    def freed(self, victims: Sequence[RequestView]) -> int:
        """Blocks that come free with these victims; what several share comes with the last of them."""
        together = self.board.freeable_blocks([*self.preempt, *victims])
        return together - self.board.freeable_blocks(self.preempt)

    def evict(self, victims: Sequence[RequestView]) -> None:
        """Preempts the victims; their blocks go to the budget."""
        self.budget.gain(self.freed(victims), at_once=not self.board.releases_delayed)
        self.drop(victims)

    def drop(self, victims: Sequence[RequestView]) -> None:
        """Preempts the victims; their blocks don't go to the budget: the caller has a use for them."""
        self.preempt += victims
        self.budget.seats += len(victims)
        not_decoding = (*self.board.catching_up, *self.board.parked, *self.park)
        self.budget.tokens += sum(victim not in not_decoding for victim in victims)

    def park_now(self, view: RequestView) -> None:
        """Parks a running request; where it decodes, its token of this step is free."""
        self.park.append(view)
        self.budget.tokens += view not in self.board.catching_up

    def make_room(self, view: RequestView, need: int) -> bool:
        """Preempts the fewest of those that yield to the request; nobody where all of them would not do.

        Beside it no spare blocks need be left: those who would yield are the spare. False where the request
        can't enter in this step, also where enough are preempted but their blocks come free only after it.
        """
        yielding = self.yielding_to(view)
        lacking = need - self.budget.blocks - self.budget.blocks_under_way
        enough = max(1 - self.budget.seats, self._fewest(yielding, lacking))
        if not yielding or enough > len(yielding):
            return False
        self.evict(yielding[:enough])
        return self.fits(need)

    def _fewest(self, victims: Sequence[RequestView], blocks: int) -> int:
        """How many of the first give up so many blocks together; one too many where all of them don't.

        A few are tried before many: to count what shared tables free takes a look at every block.
        """
        if blocks <= 0:
            return 0
        most = 1
        while most < len(victims) and self.freed(victims[:most]) < blocks:
            most *= 2
        numbers = range(min(most, len(victims)) + 1)
        return bisect_left(numbers, blocks, lo=most // 2, key=lambda n: self.freed(victims[:n]))

    def fits(self, blocks: int) -> bool:
        return self.budget.seats >= 1 and self.budget.has(blocks)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is left running, and nobody has entered."""
        return self._num_staying <= 0

    def is_alone(self, view: RequestView) -> bool:
        return self._num_staying - (view in self.board.parked) <= 0

    @property
    def _num_staying(self) -> int:
        return self.board.num_running - len(self.preempt) + len(self.admit)

    def ungranted(self) -> list[RequestView]:
        """Where promises come after prompts: those that hold blocks for a prompt, and no promise yet."""
        if not self.policy.decoupled:
            return []
        there = [*self.board.parked, *self.board.catching_up, *self.park, *self.admit]
        return [view for view in there if view not in self.grants and view not in self.preempt]

    def leaving_decode(self) -> set[RequestView]:
        """Those that decode up to now and won't in this step: preempted, paused or parked."""
        out = {*self.preempt, *self.pause, *self.park}
        return out.difference(self.board.catching_up, self.board.parked) if out else out

    def place(self, view: RequestView) -> tuple[tuple[float, ...], int]:
        return self.policy.ordering.key(view, self.now_ns), view.arrival_seq
