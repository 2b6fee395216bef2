"""Random histories over vLLM's real scheduler: nothing lost, nothing leaked, every token as it should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.vllm import classes
from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import FACTS, Traffic, check_answers, check_counts

HOSTS = ["fcfs", "priority"]  # vLLM's own policies
POLICIES = ["brim", "echo", "hygen", "priority", "vllm", "econoserve"]
SCARCE, AMPLE = 22, 200  # blocks
IN_FLIGHT = pytest.mark.parametrize("steps_in_flight", [1, 2], ids=["sync", "async"])


def brim(**told: Any) -> dict[str, Any]:
    """Settings under which a failure of Brim's is an error, instead of a way back to vLLM's own behaviour."""
    return {"brim": {"strict": True, **told}}


def long_history(path: str, limits: Limits, **traffic: Any) -> Driver:
    driver = Driver(classes.find(path), limits)
    Traffic(driver, seed=limits.steps_in_flight, **traffic).run(steps=2_500)
    check_answers(driver)
    assert driver.preemptions > 5
    assert len(driver.aborted) > 20
    assert len(driver.finish_reasons) > 100
    return driver


@pytest.mark.parametrize("host", HOSTS)
@IN_FLIGHT
def test_vllm_itself_loses_nothing(host: str, steps_in_flight: int) -> None:
    long_history(classes.STOCK, Limits(SCARCE, policy=host, steps_in_flight=steps_in_flight))


@pytest.mark.parametrize("host", HOSTS)
@IN_FLIGHT
def test_without_a_class_or_a_target_brim_is_not_there(host: str, steps_in_flight: int) -> None:
    limits = Limits(SCARCE, policy=host, steps_in_flight=steps_in_flight, additional_config=brim())
    stock, ours = (long_history(path, limits, facts=[{}]) for path in (classes.STOCK, classes.BRIM))
    assert (ours.steps, ours.preemptions, ours.tokens) == (stock.steps, stock.preemptions, stock.tokens)


@pytest.mark.parametrize("policy", POLICIES)
@IN_FLIGHT
def test_thousands_of_steps_lose_nothing(policy: str, steps_in_flight: int) -> None:
    told = brim(policy=policy, ttft_ms=1_000, itl_ms=100)
    driver = long_history(
        classes.BRIM, Limits(SCARCE, steps_in_flight=steps_in_flight, additional_config=told)
    )
    assert driver.scheduler.brim_mode == "active"
    check_counts(driver)


@pytest.mark.parametrize("seed", range(3))
@IN_FLIGHT
def test_a_shadow_counts_what_vllm_gives(seed: int, steps_in_flight: int) -> None:
    told = brim(policy="brim", mode="shadow", ttft_ms=1_000, itl_ms=100)
    driver = Driver(
        classes.find(classes.BRIM), Limits(SCARCE, steps_in_flight=steps_in_flight, additional_config=told)
    )
    Traffic(driver, seed).run(steps=600)
    check_answers(driver)
    check_counts(driver)


@pytest.mark.parametrize("policy", POLICIES)
@IN_FLIGHT
def test_an_operator_may_switch_at_any_time(policy: str, steps_in_flight: int) -> None:
    told = brim(policy=policy, ttft_ms=1_000, itl_ms=100)
    limits = Limits(SCARCE, steps_in_flight=steps_in_flight, additional_config=told)
    long_history(classes.BRIM, limits, modes=["active", "active", "shadow", "stock"])


@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 60),
    limits=st.builds(
        Limits,
        num_blocks=st.integers(12, AMPLE),
        max_num_seqs=st.integers(1, 8),
        max_num_batched_tokens=st.integers(8, 200),
        prefix_caching=st.booleans(),
        policy=st.sampled_from(HOSTS),
        steps_in_flight=st.sampled_from([1, 2]),
        additional_config=st.builds(brim) | st.builds(brim, policy=st.sampled_from(POLICIES)),
    ),
    facts=st.lists(st.sampled_from(FACTS), min_size=1, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_short_histories_under_all_limits(
    seed: int, steps: int, limits: Limits, facts: list[dict[str, Any]]
) -> None:
    driver = Driver(classes.find(classes.BRIM), limits)
    Traffic(driver, seed, facts=facts).run(steps)
    check_answers(driver)
