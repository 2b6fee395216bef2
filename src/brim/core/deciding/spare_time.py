"""The time that online requests leave, and what of a step a request may have."""

from __future__ import annotations

from brim.core.deciding.draft import Draft
from brim.core.deciding.online_part import (
    any_offline,
    first_token,
    online_step,
    prompt_works,
)
from brim.core.deciding.time_left import TimeLeft
from brim.core.decision import Board
from brim.core.estimators.slack import OnlineStep, StepLimit
from brim.core.policies.timing import Timing
from brim.core.policy import Policy
from brim.core.request import RequestView, TaskClass


def turn_to_offline(draft: Draft) -> None:
    """The online part of the step is known: offline requests get the time that it leaves.

    Where there are none, who will be late is all that there is to find out.
    """
    timing, board = draft.policy.timing, draft.board
    if timing is None or draft.time is not None:
        return
    half_done = sorted((view for view in board.catching_up if not view.ending), key=draft.place)
    running = [view for view in (*half_done, *draft.admit) if view not in draft.preempt]
    works = prompt_works(timing, board, running, draft.chunk_tokens, draft.works)
    held_back = any_offline(board)
    step = online_step(timing, board, draft.now_ns, draft.stopped(), works, held_back=held_back)
    limit = timing.limit(step)
    draft.miss = limit.miss
    if held_back:
        draft.time = _time_left(timing, board, step, limit)
        _pause_offline(draft, draft.time)


def all_in_time(policy: Policy, board: Board, now_ns: int) -> bool:
    """Whether a decision that would be empty but for the time is empty: nobody sits out, nobody will be late.

    For a board on which all who run decode, and nobody could enter. Far less work than the decision.
    """
    timing = policy.timing
    if timing is None:
        return True
    step = online_step(timing, board, now_ns, (), ())
    limit = timing.limit(step)
    if limit.miss is not None:
        return False
    return _time_left(timing, board, step, limit).add_all(*board.load(TaskClass.OFFLINE))


def _time_left(timing: Timing, board: Board, step: OnlineStep, limit: StepLimit) -> TimeLeft:
    steps = timing.steps
    return TimeLeft(steps.guarded_ns, step.shape, limit.limit_ns, board.block_size, steps.known_tokens)


def _pause_offline(draft: Draft, time: TimeLeft) -> None:
    """Offline requests that decode go on as far as there is time; the first to give way sit out."""
    if not draft.stopped() and time.add_all(*draft.board.load(TaskClass.OFFLINE)):
        return
    idle = {*draft.board.catching_up, *draft.board.parked, *draft.park}
    decoding = [view for view in draft.victims() if view.request.is_offline and view not in idle]
    left_out = time.add_last([view.num_scheduled_tokens + 1 for view in decoding])
    draft.pause += decoding[:left_out]
    draft.budget.tokens += left_out


def tokens_for(draft: Draft, view: RequestView, remaining: int) -> int:
    """What is left of the step for a request of its class."""
    most = max(min(draft.budget.tokens, remaining), 0)
    if view.request.is_offline:
        most = max(min(most, draft.offline_tokens), 0)
        return draft.time.chunk(first_token(draft.board, view), most) if draft.time is not None else most
    if draft.policy.timing is None:
        return most
    if draft.prompt_tokens is None:
        draft.prompt_tokens = _prompt_tokens(draft, draft.policy.timing)
    return max(min(most, draft.prompt_tokens), 0)


def _prompt_tokens(draft: Draft, timing: Timing) -> int:
    """Of online requests, before any of them has got some."""
    step, hurrying = draft.in_a_hurry, draft.policy.hurrying
    if step is not None and hurrying is not None:
        return hurrying.prompt_tokens(timing, step, draft.token_budget)
    alone = online_step(timing, draft.board, draft.now_ns, draft.stopped(), [])
    return timing.prompt_tokens(alone, draft.token_budget)
