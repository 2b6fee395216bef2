"""Half-done prompts and new requests: they get what is left of the step."""

from __future__ import annotations

from collections.abc import Iterator

from brim.core.deciding.draft import Draft
from brim.core.deciding.in_time_first import in_time_first
from brim.core.deciding.online_part import start_of
from brim.core.deciding.spare_time import tokens_for, turn_to_offline
from brim.core.decision import Grant
from brim.core.request import RequestView


def fill(draft: Draft) -> None:
    """Gives what is left of the token budget to half-done prompts and to new requests, in order."""
    for view, waits in in_time_first(draft, _candidates(draft)):
        if view.request.is_offline:
            turn_to_offline(draft)
        if waits:
            draft.budget.refused = not try_admit(draft, view)
        elif view not in draft.preempt and not _is_refused(draft, view):
            _give_chunk(draft, view, view.num_tokens - view.num_scheduled_tokens)


def _is_refused(draft: Draft, view: RequestView) -> bool:
    """Very many offline requests may be paused: few are asked where one with fewer tokens had no time."""
    time = draft.time
    return time is not None and view.request.is_offline and time.refuses(view.num_scheduled_tokens)


def _candidates(draft: Draft) -> Iterator[tuple[RequestView, bool]]:
    """Half-done prompts and, unless victims just gave way, waiting requests (True), in one order."""
    half_done = sorted([(draft.place(view), view) for view in draft.half_done()], reverse=True)
    for view in _newcomers(draft):
        if half_done:
            place = draft.place(view)
            while half_done and half_done[-1][0] <= place:
                yield half_done.pop()[1], False
        yield view, True
    for _, view in reversed(half_done):
        yield view, False


def _newcomers(draft: Draft) -> Iterator[RequestView]:
    if draft.budget.refused:
        return iter(())
    return draft.policy.picking.candidates(draft.board.waiting, draft.budget)


def _give_chunk(draft: Draft, view: RequestView, remaining: int) -> None:
    _free_tokens(draft, view, min(remaining, draft.token_budget // 2))
    num_tokens = draft.policy.chunking.tokens(view, remaining, tokens_for(draft, view, remaining))
    if num_tokens < 1:
        return
    draft.chunk_tokens[view] = num_tokens
    draft.budget.tokens -= num_tokens
    if view.request.is_offline:
        draft.offline_tokens -= num_tokens
        if draft.time is not None:
            draft.time.add_chunk(start_of(draft.board, view), num_tokens)
    elif draft.prompt_tokens is not None:
        draft.prompt_tokens -= num_tokens


def _free_tokens(draft: Draft, view: RequestView, wanted: int) -> None:
    """Pauses those that yield to the request until it can run `wanted` tokens.

    Half a step is enough for it: pausing all would stop their work to gain little.
    """
    lacking = wanted - draft.budget.tokens
    if lacking <= 0:
        return
    decoding = [v for v in draft.yielding_to(view) if v not in draft.board.catching_up]
    paused = decoding[:lacking]
    draft.pause += paused
    draft.budget.tokens += len(paused)


def try_admit(draft: Draft, view: RequestView) -> bool:
    """Lets the request enter if it can, others giving way if they must."""
    if draft.budget.tokens < 1 and draft.budget.seats >= 1:
        return False  # the step is full
    alone = draft.is_alone(view)
    if not alone and not _guarded(draft, view):
        return False
    remaining = view.num_tokens - draft.board.hit_tokens(view)
    grant, spare = _grant_of_newcomer(draft, view), 0 if alone else draft.spare
    least = draft.budget.blocks_for(remaining) + grant.blocks
    if not draft.fits(least + spare) and not draft.yielding_to(view):
        return False  # it would not fit if all its hits were held: to count those is a walk
    need = draft.board.admission_blocks(view) + grant.blocks
    fits = draft.fits(need + spare)
    if not fits and not draft.yielding_to(view):
        return False
    tokens = tokens_for(draft, view, remaining)
    if draft.budget.tokens >= 1 and not draft.policy.chunking.tokens(view, remaining, tokens):
        return False  # it can't be cut, or there is no time
    if view.request.is_offline and not alone and need > draft.offline_blocks:
        return False
    if not fits and not draft.make_room(view, need):
        return False
    _give_chunk(draft, view, remaining)
    draft.budget.take(need)
    draft.budget.seats -= 1
    if view.request.is_offline:
        draft.offline_blocks -= need
    draft.admit.append(view)
    if draft.policy.promising.binding and not draft.policy.decoupled:
        draft.grants[view] = grant
    return True


def _grant_of_newcomer(draft: Draft, view: RequestView) -> Grant:
    outputs = view.expected_tokens - view.num_prompt_tokens
    if draft.policy.decoupled:
        return Grant(outputs, 0)
    wanted = draft.budget.blocks_for(draft.policy.promising.tokens(view))
    return Grant(outputs, wanted - draft.budget.blocks_for(view.num_tokens))


def _guarded(draft: Draft, view: RequestView) -> bool:
    if not draft.policy.decoupled:
        return True
    together, board = [*draft.ungranted(), view], draft.board
    return draft.policy.admitting.allows(together, board.num_blocks, board.block_size, draft.budget.blocks)
