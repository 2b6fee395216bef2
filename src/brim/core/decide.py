"""decide(policy, board, now) -> Decision: the one place where the rules are put together.

It reads a board and returns a value; it changes nothing. Whoever owns the blocks carries the decision
out: `scheduler` on our own pool, an adapter with its host's levers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from brim.core.policies.admitting import Admitting
from brim.core.policies.chunking import Chunking
from brim.core.policies.filling import Filling
from brim.core.policies.ordering import Ordering
from brim.core.policies.preempting import Preempting
from brim.core.request import RequestView


@dataclass(frozen=True, slots=True)
class Policy:
    """A scheduler as a composition of rules, one for each decision."""

    name: str
    ordering: Ordering
    preempting: Preempting
    admitting: Admitting
    chunking: Chunking
    filling: Filling


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do before and in the coming step, in this order.

    `preempt` lose their KV and wait again; `pause` sit this step out and keep their KV; `admit` enter
    the batch; `chunk_tokens` says how many tokens each of those catching up runs, the admitted included.
    Every other running request decodes one token. `token_budget` is the most the whole step may run.

    Blocks shared between a victim and a newcomer are counted twice here, so an admission of a decision
    that also preempts may turn out not to fit: it then waits for the next decision.
    """

    preempt: Sequence[RequestView] = ()
    pause: Sequence[RequestView] = ()
    admit: Sequence[RequestView] = ()
    chunk_tokens: Mapping[RequestView, int] = field(default_factory=dict)
    token_budget: int = 0


class Board(Protocol):
    """What a decision may know. All counts are of this moment, before anything is carried out."""

    @property
    def running(self) -> Iterable[RequestView]: ...
    @property
    def catching_up(self) -> Collection[RequestView]:
        """The running requests that don't simply decode one token."""

    @property
    def starved(self) -> Sequence[RequestView]:
        """The running requests that lack a block for their next token."""

    @property
    def waiting(self) -> Iterable[RequestView]:
        """In order of the policy's `ordering`."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_decoding(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def available_blocks(self) -> int: ...
    @property
    def releases_delayed(self) -> bool:
        """True when a victim's blocks come free only after this step (one is still in flight)."""

    @property
    def blocks_under_way(self) -> int:
        """Blocks given up already, or of requests that end in flight, that come free only after this step."""

    def hit_tokens(self, view: RequestView) -> int:
        """Tokens of a waiting request that are in the prefix cache."""

    def admission_blocks(self, view: RequestView) -> int:
        """Available blocks that admitting it uses up."""

    def freeable_blocks(self, views: Sequence[RequestView]) -> int:
        """Blocks that preempting all of them makes available."""


def decide(policy: Policy, board: Board, now_ns: int) -> Decision:
    """The decision for one step, starting at `now_ns`."""
    draft = _Draft(policy, board, now_ns)
    draft.feed_the_starved()
    draft.fill()
    return Decision(draft.preempt, draft.pause, draft.admit, draft.chunk_tokens, draft.token_budget)


class _Draft:
    """A decision in the making, and what is left to give away while it is made."""

    def __init__(self, policy: Policy, board: Board, now_ns: int) -> None:
        self.policy = policy
        self.board = board
        self.now_ns = now_ns
        self.preempt: list[RequestView] = []
        self.pause: list[RequestView] = []
        self.admit: list[RequestView] = []
        self.chunk_tokens: dict[RequestView, int] = {}
        self.token_budget = policy.filling.token_budget(now_ns)
        self.tokens = self.token_budget - board.num_decoding
        self.seats = board.max_num_seqs - board.num_running
        self.blocks = board.available_blocks
        self.blocks_under_way = board.blocks_under_way
        self.admitting = True

    def feed_the_starved(self) -> None:
        """Every running request gets a block for its next token; where blocks lack, somebody gives way."""
        starving = list(self.board.starved)
        victims = iter(self._victims() if starving else ())
        while len(starving) > self.blocks + self.blocks_under_way:
            victim = next(victims)
            self._evict([victim])
            if victim in starving:
                starving.remove(victim)
        fed = min(self.blocks, len(starving))
        self.blocks -= fed
        self.pause = starving[fed:]
        # a victim would come straight back for the blocks it has just given up
        self.admitting = not self.preempt

    def fill(self) -> None:
        """Gives what is left of the token budget to half-done prompts and to new requests, in order."""
        for view, waits in self._candidates():
            if waits:
                self.admitting = self._try_admit(view)  # nobody overtakes: a large request would starve
            elif view not in self.preempt:
                self._give_chunk(view, view.num_tokens - view.num_scheduled_tokens)

    def _candidates(self) -> Iterator[tuple[RequestView, bool]]:
        """Half-done prompts and, while admitting, waiting requests (True), in one order."""
        half_done = [view for view in self.board.catching_up if view not in self.pause]
        half_done.sort(key=self._order, reverse=True)
        for view in self.board.waiting:
            if not self.admitting:
                break
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
        need = self.board.admission_blocks(view)
        spare = 0
        if self.board.num_running - len(self.preempt) + len(self.admit) > 0:
            spare = self.policy.admitting.spare_blocks(view, self.board.num_blocks)
        if not self._fits(need + spare) and not self._make_room(view, need):
            return False
        self.blocks -= need
        self.seats -= 1
        self.admit.append(view)
        self._give_chunk(view, view.num_tokens - self.board.hit_tokens(view))
        return True

    def _fits(self, blocks: int) -> bool:
        return self.seats >= 1 and self.blocks >= blocks

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
        self.tokens += sum(victim not in self.board.catching_up for victim in victims)
