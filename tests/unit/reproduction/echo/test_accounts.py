"""Offline work is counted in the measured time, and priced by its tokens."""

from __future__ import annotations

import pytest

from brim.core.estimators.step_time import StepTime
from brim.core.events import Admitted, Event, Finished, Preempted
from brim.core.request import FinishReason, TaskClass
from brim.reproduction.echo.accounts import Accounts
from brim.simulation.machine import Machine
from brim.workloads.trace import Trace, TraceRequest

OFFLINE = TaskClass.OFFLINE
TRACE = Trace(
    "three",
    [TraceRequest(0, 100, 3, OFFLINE), TraceRequest(0, 100, 3, OFFLINE), TraceRequest(0, 50, 9)],
)
# 10 ps a token, 1 ps a pair, 2 ps a decode's context
MACHINE = Machine(StepTime(1000, 10, (), 1, 0, 2), target_forward_tokens=500)


def told(*events: Event) -> Accounts:
    accounts = Accounts(TRACE, MACHINE, 100, 200)
    accounts.observe(list(events))
    return accounts


def test_prompts_count_by_what_is_not_cached_and_answers_by_their_context() -> None:
    done = Finished(190, 9, "0", FinishReason.LENGTH, 3)
    figures = told(Admitted(120, 1, "0", 80, False), done).figures()
    prompt_ps = 20 * 10 + 20 * 80 + 20 * 21 // 2
    answer_ps = 2 * 10 + (101 + 102) * 2
    assert figures["work_seconds"] == pytest.approx((prompt_ps + answer_ps) / 1e12)
    assert figures["prompt_share"] == pytest.approx(prompt_ps / (prompt_ps + answer_ps))
    assert (figures["hit_rate"], figures["finished"], figures["backlog_left"]) == (0.8, 1, 1)


def test_nothing_outside_the_time_counts_but_for_the_backlog() -> None:
    ends = [Finished(at, 9, "0", FinishReason.LENGTH, 3) for at in (99, 200)]
    figures = told(Admitted(50, 1, "0", 0, False), Admitted(250, 2, "1", 0, False), *ends).figures()
    assert (figures["finished"], figures["hit_rate"], figures["prompt_share"]) == (0, None, None)
    assert figures["backlog_left"] == 1


def test_online_requests_do_not_count() -> None:
    figures = told(Admitted(120, 1, "2", 0, False), Finished(150, 2, "2", FinishReason.LENGTH, 9)).figures()
    assert (figures["finished"], figures["work_seconds"], figures["backlog_left"]) == (0, 0, 2)


def test_what_a_preemption_loses_is_work_and_no_prompt() -> None:
    first = Admitted(120, 1, "0", 0, False)
    again = Admitted(140, 3, "0", 64, True)
    figures = told(first, Preempted(130, 2, "0", 90), again).figures()
    assert (figures["recomputed_tokens"], figures["preempted"], figures["hit_rate"]) == (26, 1, 0.0)
    assert figures["backlog_left"] == 1


def test_the_halves_of_the_time_are_told_apart() -> None:
    ends = [
        Finished(at, 9, name, FinishReason.LENGTH, 3)
        for at, name in ((149, "0"), (150, "1"), (160, "0"), (199, "1"))
    ]
    assert told(*ends).figures()["second_half_over_first"] == 3
