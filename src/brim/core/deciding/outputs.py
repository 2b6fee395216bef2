"""Those that generate, and those that wait to: blocks for their outputs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from brim.core.deciding.draft import Draft
from brim.core.decision import Grant
from brim.core.policies.preempting import least_loss
from brim.core.request import RequestView


def feed_the_starved(draft: Draft) -> None:
    """Every running request gets a block for its next token; where blocks lack, somebody gives way."""
    if not draft.policy.promising.binding:
        _preempt_for_the_starved(draft)
    else:
        outgrown = [view for view in draft.board.starved if not draft.board.covers(view)]
        _displace(draft, [view for view in draft.board.starved if view not in outgrown])
        for view in outgrown:
            if view not in draft.preempt:
                _outgrown(draft, view)
    # a victim would come straight back for the blocks it has just given up
    draft.budget.refused = bool(draft.preempt)


def _preempt_for_the_starved(draft: Draft) -> None:
    starving = list(draft.board.starved)
    if not starving:
        return
    victims = iter(draft.victims())
    while len(starving) > draft.budget.blocks + draft.budget.blocks_under_way:
        victim = next(victims)
        draft.evict([victim])
        if victim in starving:
            starving.remove(victim)
    fed = min(draft.budget.blocks, len(starving))
    draft.budget.take(fed)
    draft.pause = starving[fed:]


def _displace(draft: Draft, displaced: Sequence[RequestView]) -> None:
    """For those starved although a block is promised to them: guests, or parked requests, hold it.

    The newest of these are preempted for the hosts. A host whose block is not free in time is parked, and so
    is every guest.
    """
    hosts = [view for view in displaced if not draft.board.is_guest(view)]
    victims = _borrowers_of(draft, len(hosts)) if hosts else []
    freed = 0 if draft.board.releases_delayed else draft.freed(victims)
    draft.drop(victims)
    for view in [*hosts[freed:], *(view for view in displaced if view not in hosts)]:
        if view not in victims:
            draft.park_now(view)


def _borrowers_of(draft: Draft, blocks: int) -> list[RequestView]:
    """The fewest guests and parked, offline and newest first, that free so many blocks together; or all."""
    borrowers = [v for v in draft.board.running if draft.board.is_guest(v) or v in draft.board.parked]
    borrowers.sort(key=_offline_then_newest, reverse=True)
    enough = bisect_left(range(len(borrowers)), blocks, key=lambda n: draft.freed(borrowers[:n]))
    return borrowers[:enough]


def _outgrown(draft: Draft, view: RequestView) -> None:
    """A request at the end of its promise is promised what it still needs, or one block; the reserve counts.

    Without a block left it is parked, or preempted: see `_relieve`.
    """
    outputs = draft.policy.expecting.output_tokens(view)
    held = draft.board.held_blocks(view)
    wanted = draft.budget.blocks_for(view.num_prompt_tokens + outputs) - held
    blocks = max(wanted, 1) if draft.budget.has(wanted) else 1
    if not draft.budget.has(blocks):
        _relieve(draft, view)
    if view in draft.preempt:
        return
    if draft.budget.has(blocks):
        draft.grants[view] = Grant(outputs, blocks)
        draft.budget.take(blocks)
    else:
        draft.park_now(view)


def _relieve(draft: Draft, view: RequestView) -> None:
    """Keeps one at most parked in mid-answer: of those and this one the newest, offline first, goes."""
    halfway = [v for v in (*draft.board.parked, *draft.park) if v.num_tokens > v.num_prompt_tokens + 1]
    halfway = [v for v in halfway if v not in draft.preempt]
    if halfway:
        victim = max([*halfway, view], key=_offline_then_newest)
        draft.evict([victim])
        draft.park = [v for v in draft.park if v is not victim]


def grant_the_parked(draft: Draft) -> None:
    """Promises the parked the blocks of their outputs, group after group, in order.

    Once one does not fit, only those with the same key follow it, and guests, the longest answer first.
    """
    if draft.park or draft.preempt:
        return  # what the others will hold is not known before that is done
    lending, stuck = draft.policy.lending, None
    passing: list[RequestView] = []
    for view in _in_groups(draft):
        place = draft.board.parked.key(view)
        if stuck not in (None, place):
            passing.append(view)
        elif not _promise(draft, view):
            stuck = place
    if lending and stuck and lending.may_pass(stuck):
        for view in sorted(passing, key=lambda view: view.num_tokens - view.expected_tokens):
            _promise(draft, view, passes=True)


def _in_groups(draft: Draft) -> list[RequestView]:
    groups: dict[int, list[RequestView]] = {}
    for view in draft.board.parked:
        if not view.ending:
            groups.setdefault(draft.policy.grouping.key(view), []).append(view)
    return [view for group in groups.values() for view in group]


def _promise(draft: Draft, view: RequestView, *, passes: bool = False) -> bool:
    """Grants the request its output's blocks if they fit; as a guest where only the forecast says so."""
    if draft.budget.tokens < 1:
        return False
    wanted = max(draft.policy.promising.tokens(view), view.num_scheduled_tokens + 1)
    blocks = max(draft.budget.blocks_for(wanted) - draft.board.held_blocks(view), 0)
    alone = draft.is_alone(view)
    keep = 0 if alone else _kept_from_outputs(draft, view)
    lent = passes or not draft.budget.is_ordinary(blocks + keep)
    guest = draft.policy.lending is not None and lent
    if not (draft.budget.has(blocks) if alone else draft.budget.fits(view, blocks, keep, guest=guest)):
        return False
    draft.budget.promise(view, blocks, guest=guest)
    draft.grants[view] = Grant(view.expected_tokens - view.num_prompt_tokens, blocks, guest)
    draft.budget.tokens -= 1
    return True


def _kept_from_outputs(draft: Draft, view: RequestView) -> int:
    """The reserve, and what is left of the prompts' floor."""
    held = sum(draft.board.held_blocks(other) for other in draft.ungranted() if other is not view)
    floor = draft.policy.admitting.prompt_blocks(draft.board.num_blocks, draft.board.block_size)
    return draft.spare + max(floor - held, 0)


def unblock(draft: Draft) -> None:
    """Where nothing runs and nothing can be granted, the parked that loses least gives way.

    The first in order stays: with each that leaves it comes nearer to its output's blocks.
    """
    leaving = [v for v in (*draft.park, *draft.pause) if v not in draft.board.catching_up]
    generating = draft.board.num_decoding - len(leaving)
    if generating > 0 or draft.grants or draft.chunk_tokens or draft.board.steps_in_flight:
        return
    parked = [view for view in draft.board.parked if view not in draft.preempt]
    if len(parked) > 1:
        draft.preempt.append(min(parked[1:], key=least_loss))


def _offline_then_newest(view: RequestView) -> tuple[bool, int]:
    """Who gives way first has the largest key."""
    return view.request.is_offline, view.arrival_seq
