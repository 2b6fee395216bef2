"""Online prompts whose first token can't be in time any more go behind those that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from typing import Generic, TypeVar

from brim.core.deciding.draft import Draft
from brim.core.deciding.online_part import (
    MOST_PROMPTS,
    online_step,
    prompt_work,
)
from brim.core.decision import Board
from brim.core.estimators.slack import PromptWork
from brim.core.policies.hurrying import Hurrying
from brim.core.policies.timing import Timing
from brim.core.request import RequestView

T = TypeVar("T")
Candidate = tuple[RequestView, bool]  # and whether it waits to enter


def in_time_first(draft: Draft, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The same candidates, but among the first few those that will be late come last.

    Only inside one priority of online requests. Sets `Draft.ordered_step`. Whether a candidate will be late
    is found out no earlier than the caller comes to it.
    """
    timing, hurrying = draft.policy.timing, draft.policy.hurrying
    if timing is None or hurrying is None or _is_full(draft):
        yield from candidates
        return
    first = list(islice(candidates, MOST_PROMPTS))
    if len(first) < 2:
        _tell_alone(draft, timing, first)
        yield from first
        return
    turn = _whose_turn(draft, hurrying)
    if turn is not None:
        first = [turn, *(one for one in first if one != turn)]
    half_done = sum(not waits for _, waits in first)
    for view, waits in _sorted(draft, timing, hurrying, first, turn):
        if not waits:
            half_done -= 1
            yield view, waits
        elif not draft.budget.refused:  # once one found no room, nobody enters before it
            yield view, waits
        if draft.budget.refused and not half_done:
            break
    yield from (one for one in candidates if one != turn)


def _is_full(draft: Draft) -> bool:
    """Whether nobody gets a token more, whoever comes first."""
    return draft.budget.tokens < 1 <= draft.budget.seats and not draft.board.catching_up


def _tell_alone(draft: Draft, timing: Timing, first: list[Candidate]) -> None:
    """Sets `Draft.ordered_step` where there is nobody to overtake: the usual case."""
    if first and not first[0][0].request.is_offline:
        prompts = [_work(timing, draft.board, draft.works, first[0][0])]
        draft.ordered_step = online_step(timing, draft.board, draft.now_ns, draft.leaving_decode(), prompts)


def _work(
    timing: Timing, board: Board, works: dict[RequestView, PromptWork], view: RequestView
) -> PromptWork:
    known = works.get(view)
    if known is None:
        known = works[view] = prompt_work(timing, board, view)
    return known


def _sorted(
    draft: Draft, timing: Timing, hurrying: Hurrying, first: list[Candidate], turn: Candidate | None
) -> Iterable[Candidate]:
    if all(view.request.is_offline for view, _ in first):
        return first
    step = online_step(timing, draft.board, draft.now_ns, draft.leaving_decode(), [])
    # Must not capture `draft`: it ends up inside it, and the cycle would keep both alive.
    work = partial(_work, timing, draft.board, draft.works)
    roomy = _all_fit(draft, [view for view, waits in first if waits and not view.request.is_offline])

    def gives_way(one: Candidate) -> bool:
        view, waits = one
        if view.num_tokens > view.num_prompt_tokens or (waits and not roomy):
            return False
        return hurrying.is_late(timing, step, work(view))

    ordered = _Walked(_late_last(first, turn, gives_way))
    prompts = _Walked(work(view) for view, _ in ordered if not view.request.is_offline)
    draft.ordered_step = step._replace(prompts=prompts)
    return ordered


def _all_fit(draft: Draft, waiting: list[RequestView]) -> bool:
    """Whether all can enter, if need be in place of offline requests.

    If not, overtaking may cost others a seat or blocks for a whole answer.
    """
    budget, board, preempting = draft.budget, draft.board, draft.policy.preempting
    seats, blocks = budget.seats, budget.blocks
    needed = sum(budget.blocks_for(view.num_tokens + 1) for view in waiting)
    if waiting and preempting.for_newcomers and (len(waiting) > seats or needed > blocks):
        seats += sum(v.request.is_offline and preempting.yields_to(v, waiting[0]) for v in board.running)
        blocks += board.offline_blocks
    return not budget.refused and len(waiting) <= seats and needed <= blocks


def _late_last(
    first: list[Candidate], turn: Candidate | None, gives_way: Callable[[Candidate], bool]
) -> Iterator[Candidate]:
    """Whose turn it is, then online requests by priority, the late ones last, then offline ones."""

    def place(one: Candidate) -> tuple[bool, bool, int]:
        view, offline = one[0], one[0].request.is_offline
        return one != turn, offline, 0 if offline else view.request.priority

    for (_, offline, _), equals in groupby(sorted(first, key=place), place):
        group, late = list(equals), []
        for one in group:
            if len(group) > 1 and not offline and gives_way(one):
                late.append(one)
            else:
                yield one
        yield from late


class _Walked(Generic[T]):
    """An iterator that may be walked more than once; it is asked for no more than the longest walk needs."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source = source
        self._seen: list[T] = []

    def __iter__(self) -> Iterator[T]:
        at = 0
        while True:
            if at == len(self._seen):
                self._seen += islice(self._source, 1)
            if at == len(self._seen):
                return
            yield self._seen[at]
            at += 1


def _whose_turn(draft: Draft, hurrying: Hurrying) -> Candidate | None:
    """Who of the online requests has waited longest for a first token, where this is the step for it."""
    if not hurrying.is_turn(draft.board.tick):
        return None
    half_done = [(view, False) for view in draft.half_done()]
    waiting = [] if draft.budget.refused else [(view, True) for view in draft.board.waiting]
    online = [one for one in (*half_done, *waiting) if not one[0].request.is_offline]
    return min(online, key=lambda one: (one[0].request.arrival_ns, one[0].arrival_seq), default=None)
