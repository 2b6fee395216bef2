"""Whatever fails in Brim, wherever vLLM was when it called: vLLM goes on by itself, and loses nothing."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from brim.core.hosted import HostedScheduler
from brim.core.kvcache.eviction import ByReuse
from brim.core.offline.trie import PrefixTrie
from brim.plugins.vllm.host import VllmHost
from brim.plugins.vllm.scheduler import BrimScheduler
from tests.plugins.vllm import classes
from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import FACTS, Traffic, check_answers
from tests.plugins.vllm.test_histories import IN_FLIGHT, SCARCE

FAILING = [
    (HostedScheduler, "add"),
    (HostedScheduler, "adopt"),
    (HostedScheduler, "abort"),
    (HostedScheduler, "order"),
    (HostedScheduler, "ran"),
    (HostedScheduler, "ended"),
    (HostedScheduler, "close"),
    (PrefixTrie, "published"),
    (PrefixTrie, "evicted"),
    (ByReuse, "add"),
    (ByReuse, "discard"),
    (ByReuse, "pop"),
    (VllmHost, "engage"),
    (VllmHost, "table"),
    (VllmHost, "preempt"),
    (VllmHost, "tell_unblocked"),
    (BrimScheduler, "_whole_items"),
]
ONCE, FROM_THEN_ON = "once", "from then on"


@pytest.mark.parametrize("how_long", [ONCE, FROM_THEN_ON])
@pytest.mark.parametrize(("part", "name"), FAILING, ids=[f"{part.__name__}.{name}" for part, name in FAILING])
@IN_FLIGHT
def test_a_failure_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, part: type, name: str, how_long: str, steps_in_flight: int
) -> None:
    as_written, calls = getattr(part, name), count()

    def failing(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if call == 1 or (call > 1 and how_long == FROM_THEN_ON):
            raise ZeroDivisionError
        return as_written(*args, **kwargs)

    told = {"brim": {"policy": "brim", "ttft_ms": 1_000, "itl_ms": 100}}
    driver = Driver(
        classes.find(classes.BRIM), Limits(SCARCE, steps_in_flight=steps_in_flight, additional_config=told)
    )
    monkeypatch.setattr(part, name, failing)
    traffic = Traffic(driver, seed=2, facts=FACTS)
    for mode in ["active", "shadow", "active", "stock", "active"]:  # it meets the failure again and again
        driver.scheduler.brim_switch(mode)
        traffic.go_on(steps=150)
    traffic.run(steps=50)
    check_answers(driver)
    assert next(calls) > 1, "it was never called so often"
    if name != "close":
        assert driver.scheduler.brim_figures()["failures_total"] >= 1
