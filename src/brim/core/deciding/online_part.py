"""The online part of a step, as far as it is decided: what the time for offline requests follows from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from brim.core.decision import Board
from brim.core.estimators.slack import OnlineStep, PromptWork
from brim.core.policies.timing import Timing
from brim.core.request import RequestView, Status, TaskClass

MOST_PROMPTS = 16  # of those that wait: behind so many the next one is late anyway


def online_step(
    timing: Timing,
    board: Board,
    now_ns: int,
    leaving: Collection[RequestView],
    prompts: Iterable[PromptWork],
    *,
    limits_offline: bool = True,
) -> OnlineStep:
    """The online part of the coming step. Those `leaving` decode at present and won't in it.

    Where `limits_offline`, there are offline requests that the step's limit may hold up.
    """
    start_ns, last_ns = now_ns, timing.watch.last_ns
    for decided_ns, shape in board.steps_in_flight:
        assert shape is not None
        begun_ns = max(decided_ns, last_ns)  # it ran when the one before it was over
        start_ns = last_ns = max(start_ns, begun_ns + timing.steps.nanoseconds(shape))
    num, context = board.load(TaskClass.ONLINE)
    contexts = [view.num_scheduled_tokens + 1 for view in leaving if not view.request.is_offline]
    num, context = num - len(contexts), context - sum(contexts)
    return OnlineStep(now_ns, start_ns, last_ns, board.tick, num, context, prompts, limits_offline)


def prompt_works(
    timing: Timing,
    board: Board,
    running: Collection[RequestView],
    chunk_tokens: Mapping[RequestView, int],
    works: Mapping[RequestView, PromptWork],
) -> list[PromptWork]:
    """Of those `running` that don't decode, in this order, and of the first that wait behind them.

    `works` are those that are known already, as they are without a token in the coming step.
    """
    waiting = islice((view for view in board.waiting if view not in chunk_tokens), MOST_PROMPTS)
    return [
        (works.get(view) or prompt_work(timing, board, view)).running(chunk_tokens.get(view, 0))
        for view in (*running, *waiting)
        if not view.request.is_offline
    ]


def prompt_work(timing: Timing, board: Board, view: RequestView) -> PromptWork:
    """Of an online request that does not decode."""
    return timing.watch.work(view, start_of(board, view), timing.steps.prompt_ns)


def start_of(board: Board, view: RequestView) -> int:
    """The index of its first token still to be computed. What was cached after it entered is no use to it."""
    return view.num_scheduled_tokens if view.status is Status.RUNNING else board.hit_tokens(view)


def any_offline(board: Board) -> bool:
    """Whether anybody may have to wait for the time that online requests leave."""
    there = board.offline_waiting or board.load(TaskClass.OFFLINE).num_decodes
    return bool(there) or any(view.request.is_offline for view in board.catching_up)
