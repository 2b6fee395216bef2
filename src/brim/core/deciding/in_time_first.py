"""Online prompts whose first token can't be in time any more go behind those that can."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from brim.core.deciding.draft import Draft
from brim.core.deciding.online_part import (
    MOST_PROMPTS,
    online_step,
    prompt_token_ns,
    prompt_work,
    view_is_offline,
)
from brim.core.policies.hurrying import Hurrying
from brim.core.policies.timing import Timing
from brim.core.request import RequestView

Candidate = tuple[RequestView, bool]  # and whether it waits to enter


def in_time_first(draft: Draft, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The same candidates, of the first few the late ones last; tells the draft what their prompts may have.

    Priorities stay, and online before offline.
    """
    timing, hurrying = draft.policy.timing, draft.policy.hurrying
    if timing is None or hurrying is None:
        yield from candidates
        return
    first = list(islice(candidates, MOST_PROMPTS))
    turn = _whose_turn(draft, hurrying) if first else None
    if turn is not None:
        first = [turn, *(one for one in first if one != turn)]
    for view, waits in _sorted(draft, timing, hurrying, first, turn):
        if not (waits and draft.budget.refused):  # else nobody overtakes whom there was no room for
            yield view, waits
    yield from (one for one in candidates if one != turn)


def _sorted(
    draft: Draft, timing: Timing, hurrying: Hurrying, first: list[Candidate], turn: Candidate | None
) -> list[Candidate]:
    online = [view for view, _ in first if not view_is_offline(view)]
    if not online:
        return first
    step = online_step(timing, draft.board, draft.now_ns, draft.stopped(), [])
    token_ns = prompt_token_ns(timing.steps)
    works = {view: prompt_work(timing, draft.board, view, 0, token_ns) for view in online}

    def place(one: Candidate) -> tuple[bool, bool, int, bool]:
        view, work = one[0], works.get(one[0])
        if work is None:  # offline
            return True, True, 0, False
        has_output = view.num_tokens > view.num_prompt_tokens
        late = not has_output and hurrying.is_late(timing, step, work)
        return one != turn, False, view.request.priority, late

    ordered = sorted(first, key=place)
    step = step._replace(prompts=[works[view] for view, _ in ordered if view in works])
    draft.prompt_tokens = hurrying.prompt_tokens(timing, step, draft.token_budget)
    return ordered


def _whose_turn(draft: Draft, hurrying: Hurrying) -> Candidate | None:
    """Who of the online requests has waited longest for a first token, where this is the step for it."""
    if not hurrying.is_turn(draft.board.tick):
        return None
    half_done = [(view, False) for view in draft.board.catching_up if view not in draft.pause]
    waiting = [] if draft.budget.refused else [(view, True) for view in draft.board.waiting]
    online = [one for one in (*half_done, *waiting) if not view_is_offline(one[0])]
    return min(online, key=lambda one: (one[0].request.arrival_ns, one[0].arrival_seq), default=None)
