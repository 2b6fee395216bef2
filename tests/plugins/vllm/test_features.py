"""What else vLLM can do beside Brim: random histories over its real scheduler, each with one more feature."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.plugins.replay import replay as play_again
from brim.plugins.vllm.not_now import Blocked, NotNow
from brim.plugins.vllm.scheduler import BrimScheduler
from tests.plugins.vllm import classes
from tests.plugins.vllm.clock import ToldClock
from tests.plugins.vllm.connector import mood
from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import FACTS, Traffic, check_answers, check_counts
from tests.plugins.vllm.test_histories import brim
from tests.plugins.vllm.worker import answer

FEATURES: dict[str, dict[str, Any]] = {
    "a window": {"windows": (40,), "num_blocks": 50},
    "two windows": {"windows": (40, 100), "num_blocks": 70},
    "several whole contexts": {"windows": (2_000,), "num_blocks": 60},
    "adapters": {"adapters": 1},
    "images": {"images": 20},
    "guesses": {"guesses": 3},
    "a connector": {"connector": True},
    "grammars": {"grammars": True},
    "a pipeline": {"pipeline": 2},
    "a long pipeline": {"pipeline": 4},
    # with images vLLM alone may run more adapters than it has room for, and ends: here there is room for all
    "most": {"windows": (40,), "num_blocks": 60, "adapters": 3, "images": 20},
}
POLICIES = ["brim", "priority", "econoserve"]
IN_FLIGHT = pytest.mark.parametrize("steps_in_flight", [1, 2], ids=["sync", "async"])


def limits_of(feature: str, steps_in_flight: int, **told: Any) -> Limits:
    if "pipeline" in feature and steps_in_flight == 1:
        pytest.skip("Brim leaves that to vLLM")
    config = {"num_blocks": 40, **FEATURES.get(feature, {}), "steps_in_flight": steps_in_flight}
    return Limits(**config, additional_config=brim(**told))


def history(driver: Driver, **traffic: Any) -> Driver:
    Traffic(driver, seed=3, **traffic).run(steps=500)
    check_answers(driver)
    assert len(driver.finish_reasons) > 15
    return driver


@pytest.mark.parametrize("feature", FEATURES)
@IN_FLIGHT
def test_vllm_itself_loses_nothing(feature: str, steps_in_flight: int) -> None:
    path = classes.STOCK if steps_in_flight > 1 else classes.STOCK_SYNC
    history(Driver(classes.find(path), limits_of(feature, steps_in_flight)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("feature", FEATURES)
@IN_FLIGHT
def test_nothing_is_lost(feature: str, policy: str, steps_in_flight: int) -> None:
    limits = limits_of(feature, steps_in_flight, policy=policy, ttft_ms=1_000, itl_ms=100)
    driver = history(Driver(classes.find(classes.BRIM), limits))
    assert driver.scheduler.brim_mode == "active"
    check_counts(driver)
    assert (driver.worker.outside.loads > 10) == limits.connector


def test_a_reset_that_a_connector_refuses_is_a_reset_all_the_same() -> None:
    driver = Driver(classes.find(classes.BRIM), limits_of("a connector", 1, policy="brim"))
    driver.add("a", list(range(5, 60)), 4)
    driver.drain()
    scheduler = driver.scheduler
    with patch.object(scheduler, "reset_connector_cache", return_value=False):
        assert not scheduler.reset_prefix_cache(reset_connector=True)
    driver.add("b", list(range(5, 60)), 4)
    driver.step()
    observer = scheduler._brim.scheduler.observer
    assert len(observer.known) <= len(scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block)


@pytest.mark.parametrize("feature", ["none", *FEATURES])
@IN_FLIGHT
def test_a_journal_holds_all_that_decisions_rested_on(
    feature: str, steps_in_flight: int, tmp_path: Path
) -> None:
    told = {"policy": "brim", "ttft_ms": 1_000, "itl_ms": 100, "decision_log": str(tmp_path / "journal")}
    driver = history(Driver(classes.find(classes.BRIM), limits_of(feature, steps_in_flight, **told)))
    driver.scheduler.brim_switch("stock")
    driver.scheduler.schedule()
    (journal,) = tmp_path.iterdir()
    found = play_again(journal)
    assert found.difference is None
    assert found.steps > 100


@pytest.mark.parametrize("mode", ["active", "shadow"])
@pytest.mark.parametrize("feature", ["several whole contexts", "a connector"])
@IN_FLIGHT
def test_an_operator_may_hold_requests_back(feature: str, mode: str, steps_in_flight: int) -> None:
    limits = limits_of(feature, steps_in_flight, policy="brim", mode=mode, ttft_ms=1_000, itl_ms=100)
    history(Driver(classes.find(classes.BRIM), limits), pauses=True)


@pytest.mark.parametrize("policy", ["vllm", "echo", "brim"])
def test_whom_the_connector_puts_off_keeps_nobody_waiting(policy: str) -> None:
    limits = Limits(
        num_blocks=200,
        max_num_batched_tokens=64,
        connector=True,
        steps_in_flight=2,
        additional_config=brim(policy=policy, ttft_ms=1_000, itl_ms=100),
    )
    driver = Driver(classes.find(classes.BRIM), limits)
    store = driver.scheduler.connector

    def matched(request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return (None if request.request_id == "put off" and driver.steps < 60 else 0), False

    with patch.object(store, "get_num_new_matched_tokens", matched):
        driver.add("runs", list(range(20)), 150)
        for _ in range(5):
            driver.step()
        driver.add("put off", list(range(100, 300)), 5)
        driver.add("behind", list(range(400, 420)), 5)
        while not driver.tokens["behind"]:
            driver.step()
        assert driver.steps < 20
        driver.drain()
    check_answers(driver)


def test_no_room_is_kept_for_a_load_that_came_to_nothing() -> None:
    """vLLM would: a few such requests, and none of them is ever let in."""
    driver = Driver(classes.find(classes.BRIM), limits_of("a connector", 1))
    for name in ("came", "lost"):
        driver.add(name, [1, 2, 3], 2)
    came, lost = driver.asked.values()
    driver.scheduler._inflight_prefills.update((came, lost))
    came.num_computed_tokens = 2
    for request in (came, lost):
        Blocked(driver.scheduler, NotNow()).loaded(request)
    assert driver.scheduler._inflight_prefills == {came}


@pytest.mark.parametrize(
    ("path", "told"),
    [(classes.STOCK_SYNC, None), (classes.BRIM, "stock"), (classes.BRIM, "vllm")],
    ids=["vLLM", "Brim as stock", "Brim"],
)
def test_kv_that_is_lost_in_the_step_that_needs_it_costs_no_token(path: str, told: str | None) -> None:
    config = {} if told is None else brim(policy=told)
    driver = Driver(classes.find(path), Limits(num_blocks=100, connector=True, additional_config=config))
    outside, prompt = driver.worker.outside, list(range(100))
    driver.add("even", prompt, 3)  # what it leaves is stored, and loaded at once by the second
    driver.drain()
    driver.scheduler.reset_prefix_cache()
    driver.add(
        at_once := next(f"r{i}" for i in range(99) if not mood(f"r{i}", 2) and mood(f"r{i}", 5)), prompt, 6
    )

    def lose_the_last(move: Any, output: Any) -> None:
        outside.loads += 1
        output.invalid_block_ids.add(move.block_ids[-1])
        for content, block_id in zip(move.hashes[:-1], move.block_ids, strict=False):
            outside._slots[block_id] = list(outside._stored[content])

    def as_the_model_runner(cached: Any) -> dict[str, int]:
        for request_id, outputs in zip(cached.req_ids, cached.num_output_tokens, strict=True):
            driver.worker.rows[request_id].cut(len(prompt) + outputs)
        return go_on(cached)

    go_on = driver.worker._go_on
    with (
        patch.object(outside, "_load", lose_the_last),
        patch.object(driver.worker, "_go_on", as_the_model_runner),
        patch.object(driver.worker, "_read", lambda *_: None),  # that step reads what was lost
    ):
        driver.drain()
    assert outside.loads == 1
    assert driver.tokens[at_once] == answer(prompt, 6)


@pytest.mark.parametrize(
    ("start", "most", "runs"), [(0, 16, 5), (5, 16, 256), (5, 0, 0), (0, 5, 5), (261, 16, 16), (0, 300, 300)]
)
def test_an_image_that_is_not_to_be_cut_runs_whole_or_not_yet(start: int, most: int, runs: int) -> None:
    image = SimpleNamespace(mm_position=SimpleNamespace(offset=5, length=256))
    uncut = SimpleNamespace(scheduler_config=SimpleNamespace(disable_chunked_mm_input=True))
    request = SimpleNamespace(mm_features=[image])
    assert BrimScheduler._whole_items(uncut, request, start, most, 512) == runs


@pytest.mark.parametrize("policy", ["priority", "brim", "econoserve"])
def test_windows_cost_few_preemptions(policy: str) -> None:
    """Over several histories: in a single one the number depends on who happens to run beside whom."""

    def preemptions(feature: str, steps_in_flight: int, policy: str) -> int:
        clock = ToldClock()
        limits = limits_of(feature, steps_in_flight, policy=policy, ttft_ms=1_000, itl_ms=100)
        with clock.told_to_all():
            return history(Driver(classes.find(classes.BRIM), limits, clock)).preemptions

    scenes = list(product(["a window", "two windows", "several whole contexts"], [1, 2]))
    stock, ours = (sum(preemptions(*scene, each) for scene in scenes) for each in ("stock", policy))
    assert stock > 90
    assert ours <= 1.75 * stock


@pytest.mark.parametrize("feature", FEATURES)
@IN_FLIGHT
def test_an_operator_may_switch_at_any_time(feature: str, steps_in_flight: int) -> None:
    limits = limits_of(feature, steps_in_flight, policy="brim", ttft_ms=1_000, itl_ms=100)
    modes = ["active", "active", "shadow", "stock"]
    history(Driver(classes.find(classes.BRIM), limits), modes=modes)


def able(limits: Limits) -> Limits:
    """Where Brim leaves a connector to vLLM there is none."""
    return replace(limits, connector=limits.connector and limits.prefix_caching and not limits.windows)


@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 60),
    limits=st.builds(
        Limits,
        num_blocks=st.integers(30, 200),
        max_num_seqs=st.integers(1, 8),
        max_num_batched_tokens=st.integers(40, 200),
        prefix_caching=st.booleans(),
        steps_in_flight=st.sampled_from([1, 2]),
        windows=st.just(()) | st.lists(st.integers(10, 200), max_size=2).map(tuple),
        adapters=st.sampled_from([0, 0, 1, 2]),
        images=st.sampled_from([0, 0, 20, 40]),
        connector=st.booleans(),
        additional_config=st.builds(brim, policy=st.sampled_from(["brim", "echo", "hygen", *POLICIES])),
    ).map(able),
    facts=st.lists(st.sampled_from(FACTS), min_size=1, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_short_histories_with_any_of_them(
    seed: int, steps: int, limits: Limits, facts: list[dict[str, Any]]
) -> None:
    driver = Driver(classes.find(classes.BRIM), limits)
    Traffic(driver, seed, facts=facts).run(steps)
    check_answers(driver)
