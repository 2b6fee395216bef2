"""The time that online requests leave, and what of a step a request may have."""

from __future__ import annotations

from brim.core.deciding.draft import Draft
from brim.core.deciding.online_part import (
    any_offline,
    online_step,
    prompt_work,
    prompt_works,
    start_of,
)
from brim.core.deciding.time_left import TimeLeft
from brim.core.decision import Board
from brim.core.estimators.slack import OnlineStep, StepLimit
from brim.core.policies.timing import Timing
from brim.core.policy import Policy
from brim.core.request import RequestView, TaskClass


def turn_to_offline(draft: Draft) -> None:
    """The online part of the step is known: offline requests get the time that it leaves.

    Where there are none, it only looks for an online request that will be late.
    """
    timing, board = draft.policy.timing, draft.board
    if timing is None or draft.time is not None:
        return
    online = [view for view in board.catching_up if not (view.request.is_offline or view.ending)]
    half_done = sorted(online, key=draft.place)
    running = [view for view in (*half_done, *draft.admit) if view not in draft.preempt]
    works = prompt_works(timing, board, running, draft.chunk_tokens, draft.works)
    limits_offline = any_offline(board)
    leaving = draft.leaving_decode()
    step = online_step(timing, board, draft.now_ns, leaving, works, limits_offline=limits_offline)
    limit = timing.limit(step)
    draft.miss = limit.miss
    if limits_offline:
        draft.time = _time_left(timing, board, step, limit)
        _pause_offline(draft, draft.time)


def all_in_time(policy: Policy, board: Board, now_ns: int) -> bool:
    """Whether the time asks for no decision: all offline requests can decode on, and nobody will be late.

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
    if not draft.leaving_decode() and time.add_all(*draft.board.load(TaskClass.OFFLINE)):
        return
    decoding = draft.decoding_offline()
    num_paused = time.add_last([view.num_scheduled_tokens + 1 for view in decoding])
    draft.pause += decoding[:num_paused]
    draft.budget.tokens += num_paused


def tokens_for(draft: Draft, view: RequestView, remaining: int) -> int:
    """How many of its `remaining` tokens the step has budget and, for its class, time for."""
    most = max(min(draft.budget.tokens, remaining), 0)
    if view.request.is_offline:
        most = max(min(most, draft.offline_tokens), 0)
        return draft.time.chunk(start_of(draft.board, view), most) if draft.time is not None else most
    if draft.policy.timing is None:
        return most
    if draft.prompt_tokens is None:
        draft.prompt_tokens = _prompt_tokens(draft, draft.policy.timing, view)
    return max(min(most, draft.prompt_tokens), 0)


def _prompt_tokens(draft: Draft, timing: Timing, first: RequestView) -> int:
    """Tokens of the step for all online prompts together; to be asked before the `first` has got some."""
    step, hurrying, most = draft.ordered_step, draft.policy.hurrying, _most_prompt_tokens(draft)
    if step is not None and hurrying is not None:
        return hurrying.prompt_tokens(timing, step, most)
    works = [draft.works.get(first) or prompt_work(timing, draft.board, first)]
    alone = online_step(timing, draft.board, draft.now_ns, draft.leaving_decode(), works)
    return timing.prompt_tokens(alone, most)


def _most_prompt_tokens(draft: Draft) -> int:
    """What those who decode leave, or half of the step where enough offline ones give theirs up for it."""
    left = max(draft.budget.tokens, 1)
    gave = sum(view.request.is_offline for view in draft.leaving_decode())
    giving = draft.board.load(TaskClass.OFFLINE).num_decodes - gave
    return max(left, min(left + giving, draft.token_budget // 2))
