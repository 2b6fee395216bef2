"""Random histories over vLLM's real scheduler: nothing lost, nothing leaked, every token as it should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.vllm import classes
from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import FACTS, Traffic, check_answers

POLICIES = ["fcfs", "priority"]
SCARCE, AMPLE = 22, 200  # blocks


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps_in_flight", [1, 2], ids=["sync", "async"])
def test_ten_thousand_steps_lose_nothing(scheduler_class: Any, policy: str, steps_in_flight: int) -> None:
    driver = Driver(scheduler_class, Limits(SCARCE, policy=policy, steps_in_flight=steps_in_flight))
    Traffic(driver, seed=steps_in_flight).run(steps=2_500)  # times four histories
    check_answers(driver)
    assert driver.preemptions > 20
    assert len(driver.aborted) > 20
    assert len(driver.finish_reasons) > 100


@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 60),
    limits=st.builds(
        Limits,
        num_blocks=st.integers(12, AMPLE),
        max_num_seqs=st.integers(1, 8),
        max_num_batched_tokens=st.integers(8, 200),
        prefix_caching=st.booleans(),
        policy=st.sampled_from(POLICIES),
        steps_in_flight=st.sampled_from([1, 2]),
    ),
    facts=st.lists(st.sampled_from(FACTS), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_short_histories_under_all_limits(
    seed: int, steps: int, limits: Limits, facts: list[dict[str, Any]]
) -> None:
    driver = Driver(classes.find(classes.BRIM), limits)
    Traffic(driver, seed, facts=facts).run(steps)
    check_answers(driver)
