"""Whom vLLM can't let in, or does not, though Brim would: nobody pays for it, and no count is wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from brim.plugins.vllm import compat
from brim.plugins.vllm.gate import GatedQueue
from brim.plugins.vllm.not_now import Adapters
from tests.plugins.vllm import classes
from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import check_answers
from tests.plugins.vllm.test_histories import IN_FLIGHT, brim

POLICIES = pytest.mark.parametrize("policy", ["vllm", "echo", "brim"])
TARGETS = {"ttft_ms": 1_000, "itl_ms": 100}


def driver_of(policy: str, **limits: Any) -> Driver:
    told = limits.pop("told", {})
    config = brim(policy=policy, **TARGETS, **told)
    return Driver(classes.find(classes.BRIM), Limits(200, additional_config=config, **limits))


@POLICIES
@IN_FLIGHT
@pytest.mark.parametrize("behind", [0, 1], ids=["without an adapter", "of the adapter in use"])
def test_who_waits_for_room_for_its_adapter_keeps_nobody_waiting(
    policy: str, steps_in_flight: int, behind: int
) -> None:
    driver = driver_of(policy, adapters=1, max_num_batched_tokens=64, steps_in_flight=steps_in_flight)
    driver.add("runs", list(range(20)), 150, adapter=1)
    for _ in range(5):
        driver.step()
    driver.add("no room", list(range(100, 300)), 5, adapter=2)
    driver.step()
    driver.add("behind", list(range(400, 420)), 5, adapter=behind)
    while not driver.tokens["behind"]:
        driver.step()
    assert driver.steps < 20
    assert not driver.tokens["no room"]
    driver.drain()
    check_answers(driver)
    assert driver.scheduler.brim_samples()['preemptions_total{class="online"}'] == 0


def test_who_waits_for_room_for_its_adapter_may_be_aborted() -> None:
    driver = driver_of("brim", adapters=1)
    driver.add("runs", list(range(20)), 9, adapter=1)
    driver.step()
    driver.add("new", list(range(9)), 9, adapter=2)
    driver.abort("new")
    driver.add("aside", list(range(9)), 9, adapter=3)
    driver.step()
    driver.abort("aside")
    driver.drain()
    check_answers(driver)


@POLICIES
@IN_FLIGHT
def test_an_adapter_of_batch_work_gives_way_to_one_of_a_chat(policy: str, steps_in_flight: int) -> None:
    """However much of the batch waits; an aborted chat holds nothing back."""
    driver = driver_of(policy, adapters=1, steps_in_flight=steps_in_flight, max_num_seqs=4)
    for number in range(30):
        driver.add(f"line{number}", list(range(20)), 10, adapter=2, task_class="offline")
    for _ in range(3):
        driver.step()
    driver.add("aborted", list(range(9)), 5, adapter=3)
    driver.step()
    driver.abort("aborted")
    driver.add("chat", list(range(9)), 5, adapter=1)
    before = driver.steps
    while not driver.tokens["chat"]:
        driver.step()
    assert driver.steps - before < 30  # those that ran end, and no more of them enter
    assert sum(bool(tokens) for tokens in driver.tokens.values()) < 10
    driver.drain()
    check_answers(driver)


def test_adapters_are_looked_at_where_something_changed() -> None:
    driver = driver_of("echo", adapters=2, max_num_seqs=4)
    for number in range(200):
        driver.add(f"line{number}", list(range(9)), 20, adapter=1 + number % 5, task_class="offline")
    for _ in range(3):
        driver.step()  # now those who run use all places
    with patch.object(Adapters, "_look_at_all", side_effect=AssertionError):
        for number in range(12):
            driver.add(f"more{number}", list(range(9)), 20, adapter=3, task_class="offline")
            driver.step()
    driver.drain()
    check_answers(driver)


def test_as_many_adapters_enter_together_as_find_room() -> None:
    driver = driver_of("vllm", adapters=2)
    for number in range(5):
        driver.add(f"r{number}", list(range(9)), 9, adapter=number)
    driver.step()
    assert {request.request_id for request in driver.scheduler.running} == {"r0", "r1", "r2"}
    driver.drain()
    check_answers(driver)


@POLICIES
@pytest.mark.parametrize("mode", ["active", "shadow"])
@IN_FLIGHT
def test_a_grammar_that_is_ready_between_two_questions_is_no_failure(
    policy: str, mode: str, steps_in_flight: int
) -> None:
    for questions in range(12):
        driver = driver_of(policy, steps_in_flight=steps_in_flight, told={"mode": mode})
        driver.add("grammar", list(range(20)), 5, grammar=(questions,))
        driver.drain()
        check_answers(driver)
        assert driver.scheduler.brim_mode == mode


@POLICIES
@IN_FLIGHT
def test_who_is_not_let_in_was_neither_admitted_nor_preempted(policy: str, steps_in_flight: int) -> None:
    driver = driver_of(policy, steps_in_flight=steps_in_flight)
    driver.add("runs", list(range(20)), 30)
    driver.step()
    driver.add("left out", list(range(100, 130)), 5)
    with patch.object(GatedQueue, "__bool__", return_value=False):
        for _ in range(6):
            driver.step()
    assert not driver.tokens["left out"]
    samples = driver.scheduler.brim_samples()
    assert samples['queue_seconds_count{class="online"}'] == 1
    driver.drain()
    samples = driver.scheduler.brim_samples()
    assert samples['queue_seconds_count{class="online"}'] == 2
    assert samples['preemptions_total{class="online"}'] == 0
    check_answers(driver)


@IN_FLIGHT
def test_who_ends_in_error_did_not_end_well(steps_in_flight: int) -> None:
    driver = driver_of("brim", steps_in_flight=steps_in_flight)
    driver.add("well", list(range(20)), 9, grammar=(0,))
    driver.add("error", list(range(20)), 9, grammar=(0, 3))
    driver.drain()
    assert driver.finish_reasons == {"well": "length", "error": "error"}
    recorded = driver.scheduler._brim._recording._recorder.by_class
    (found,) = [metrics.finished for metrics in recorded.values() if metrics.arrived]
    assert dict(found) == {"length": 1, "error": 1}


@IN_FLIGHT
def test_who_has_no_grammar_ends_in_error(steps_in_flight: int) -> None:
    driver = driver_of("brim", steps_in_flight=steps_in_flight)
    driver.add("runs", list(range(20)), 9)
    driver.add("error", list(range(20)), 9, grammar=(3,))
    future = driver.asked["error"].structured_output_request._grammar
    with patch.object(future, "result", side_effect=ValueError):
        driver.drain()
    assert driver.finish_reasons == {"runs": "length", "error": "error"}
    recorded = driver.scheduler._brim._recording._recorder.by_class
    (found,) = [metrics.finished for metrics in recorded.values() if metrics.arrived]
    assert dict(found) == {"length": 1, "error": 1}


@pytest.mark.parametrize(
    ("most", "runs"),
    [(0, 0), (1, 1), (90, 90), (97, 97), (98, 97), (99, 97), (100, 100)],
)
def test_no_chunk_ends_near_the_end_of_a_prompt_where_a_drafter_must_not_see_that(
    most: int, runs: int
) -> None:
    driver = driver_of("vllm")
    driver.add("a", list(range(100)), 5)
    driver.scheduler.num_prefill_lookahead = 3
    reserve = driver.scheduler._fewer({"a": most})
    assert reserve(driver.asked["a"], 0, 100) == runs


@pytest.mark.parametrize(
    ("start", "most", "runs"), [(95, 3, 2), (96, 2, 1), (97, 1, 3), (98, 1, 2), (98, 0, 0)]
)
def test_the_little_that_is_left_of_a_prompt_runs_at_once(start: int, most: int, runs: int) -> None:
    driver = driver_of("vllm")
    driver.add("a", list(range(100)), 5)
    driver.scheduler.num_prefill_lookahead = 3
    assert driver.scheduler._fewer({"a": most})(driver.asked["a"], start, 100 - start) == runs


def test_whom_the_gate_let_in_is_gone_when_it_is_removed() -> None:
    a, b, c = (SimpleNamespace(request_id=name) for name in "abc")
    queue = GatedQueue([a, b, c])
    queue.let_in(["c", "a", "c", "unknown"])
    queue.remove_request(c)
    assert (queue.peek_request(), len(queue)) == (a, 2)
    queue.remove_requests([a])
    assert not queue
    assert list(queue) == [b]


def test_schedulers_that_must_decide_alike_decide_alone() -> None:
    scheduler = driver_of("vllm").scheduler
    assert not compat.reasons_against(scheduler)
    scheduler.vllm_config.parallel_config.distributed_executor_backend = "external_launcher"
    (reason,) = compat.reasons_against(scheduler)
    assert "decide alike" in reason
