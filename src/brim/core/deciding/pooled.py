"""Offline requests that wait in the pool: added one by one, as long as each makes the step better."""

from __future__ import annotations

from itertools import islice

from brim.core.deciding.draft import Draft
from brim.core.deciding.prompts import try_admit
from brim.core.deciding.spare_time import tokens_for
from brim.core.deciding.time_left import TimeLeft
from brim.core.offline.planning import Offer, Planning, presses
from brim.core.request import RequestView

_PARTS = 16  # chunks of a prompt shorter than so many blocks, at most
_MOST_REFUSALS = 4  # in a step: where blocks lack, a smaller request may fit, but not all are asked


def add_from_pool(draft: Draft) -> None:
    """Adds offline requests one by one, as long as each makes the step better."""
    planning, time = draft.policy.planning, draft.time
    if planning is None or time is None or draft.budget.refused or not draft.board.offline_waiting:
        return
    if not _has_room(draft, time):
        return
    heads = {next(family): family for family in draft.board.offline_families(planning.families)}
    turn = _whose_turn(draft, planning)
    for view in (turn, draft.board.pressing_offline(draft.now_ns)):
        if view is not None:
            heads.setdefault(view, iter(()))
    gain_ns, refusals = planning.work_ns(time.offline_part), 0
    together = planning.together(draft.board.tick)
    while heads and refusals < _MOST_REFUSALS and _has_room(draft, time):
        offers = [offer for view in heads if (offer := _offer(draft, view, time))]
        pressing = [offer for offer in offers if offer.view is turn]
        pressing = pressing or [offer for offer in offers if presses(offer.view, draft.now_ns)]
        first = pressing or (planning.gaining(offers) if together else [])
        best = planning.best(first or offers, time.shape, 0.0 if first else gain_ns)
        if best is None:
            return
        family = heads.pop(best.view)
        if try_admit(draft, best.view):
            gain_ns += planning.gain_ns(best)
        elif best.view is turn and _will_fit(draft, turn):
            return  # smaller ones would take its blocks for ever
        else:
            refusals += 1
        heads |= {view: family for view in islice(family, 1) if view not in draft.admit}


def _whose_turn(draft: Draft, planning: Planning) -> RequestView | None:
    """Who has waited so long that it goes first."""
    oldest = draft.board.oldest_offline(draft.now_ns)
    if oldest is None:
        return None
    view, since_ns = oldest
    if planning.has_its_turn(view, draft.board.hit_tokens(view), since_ns, draft.now_ns):
        return view
    return None


def _will_fit(draft: Draft, view: RequestView) -> bool:
    """Whether it has room when the offline requests that run are over."""
    room = min(draft.budget.blocks, draft.offline_blocks) + draft.board.offline_blocks
    return draft.board.admission_blocks(view) + draft.spare <= room


def _has_room(draft: Draft, time: TimeLeft) -> bool:
    """Whether a look at the pool is worth its while: half-done prompts may have taken all the time."""
    tokens = min(draft.budget.tokens, draft.board.block_size)
    room = draft.offline_blocks >= 1 or draft.is_idle
    return tokens >= 1 and draft.budget.seats >= 1 and room and time.chunk(0, tokens) > 0


def _offer(draft: Draft, view: RequestView, time: TimeLeft) -> Offer | None:
    """None where the step has no time for a chunk worth the blocks that it holds until it is through.

    That is a block, or a sixteenth of its prompt if that is less; any where nothing else runs. One that is
    cut goes on before others enter, so there are never many.
    """
    board, budget = draft.board, draft.budget
    start = board.hit_tokens(view)
    remaining = view.num_tokens - start
    chunk = draft.policy.chunking.tokens
    tokens = chunk(view, remaining, tokens_for(draft, view, remaining))
    least = min(board.block_size, -(-remaining // _PARTS), budget.tokens) if time.shape.new_tokens else 1
    if tokens < max(chunk(view, remaining, least), 1):
        return None
    fresh = budget.blocks_for(view.num_tokens) - start // board.block_size
    wanted = board.wanted_among(budget.taken + fresh) - board.wanted_among(budget.taken)
    return Offer(view, start, tokens, wanted)
