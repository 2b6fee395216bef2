"""Inside real engines Brim changes when work is done, and not one token of what comes out."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.plugins.vllm import classes, models
from tests.plugins.vllm.histories import FACTS
from tests.plugins.vllm.hosts import Ask, Host, Server, engine, free_port, generate, scheduler_of, started

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

STRICT = {"strict": True}  # what goes wrong in Brim is an error
SCARCE = Host(
    classes.BRIM, num_blocks=18, additional_config={"brim": STRICT}
)  # of 32 tokens each: about five of the requests below
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
SHARED = 96  # tokens; three blocks


def asks(facts: Sequence[dict[str, Any]]) -> list[Ask]:
    """More than fits at once, every second one with the same beginning."""
    rng = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, 400) for _ in range(count))

    document = tokens(SHARED)
    return [
        Ask(
            document * (index % 2) + tokens(rng.randint(5, 60)),
            rng.randint(20, 120),
            facts[index % len(facts)],
        )
        for index in range(24)
    ]


@pytest.fixture(scope="module")
def stock_answers() -> list[list[int]]:
    """What vLLM says with room for all."""
    with engine(Host(num_blocks=200)) as llm:
        return generate(llm, asks([{}]))


@pytest.mark.parametrize("facts", [[{}], FACTS], ids=["plain", "classes"])
@MODES
def test_an_engine_in_this_process(stock_answers: list[list[int]], asynchronous: bool, facts: Any) -> None:
    host = replace(SCARCE, asynchronous=asynchronous)
    with engine(host) as llm:
        scheduler = scheduler_of(llm)
        assert isinstance(scheduler, classes.find(classes.BRIM))
        assert scheduler.scheduler_config.async_scheduling == asynchronous
        with patch.object(scheduler, "_preempt_request", wraps=scheduler._preempt_request) as preempt:
            assert generate(llm, asks(facts)) == stock_answers
        assert facts != [{}] or preempt.called
        assert scheduler.brim_mode == ("stock" if facts == [{}] else "active")
        manager = scheduler.kv_cache_manager
        assert manager.block_pool.get_num_free_blocks() == SCARCE.num_blocks - 1
        manager.reset_prefix_cache()
        first, second = asks([{}])[1], asks([{}])[3]
        generate(llm, [first])
        again = llm.generate([{"prompt_token_ids": list(second.prompt_token_ids)}], use_tqdm=False)
        assert again[0].num_cached_tokens == SHARED


@pytest.mark.parametrize(
    ("asynchronous", "flags"),
    [(False, ()), (True, ()), (True, ("--data-parallel-size", "2"))],
    ids=["sync", "async", "async, data parallel"],
)
def test_a_server(
    stock_answers: list[list[int]], tmp_path: Path, asynchronous: bool, flags: tuple[str, ...]
) -> None:
    host = replace(SCARCE, asynchronous=asynchronous)
    with Server(host, tmp_path, *flags, VLLM_LOGGING_LEVEL="DEBUG") as server:
        assert server.generate(asks([{}])) == stock_answers
        assert server.generate(asks(FACTS)) == stock_answers
    log = server.log.read_text()
    assert f"Using custom scheduler class {classes.BRIM.replace(':', '.')}" in log
    assert ("Batch queue is enabled" in log) == asynchronous


def test_a_server_and_engines_alone_as_on_two_hosts(stock_answers: list[list[int]], tmp_path: Path) -> None:
    shared = ("--data-parallel-size", "2", "--data-parallel-size-local", "1")
    shared += ("--data-parallel-address", "127.0.0.1", "--data-parallel-rpc-port", str(free_port()))
    alone = (*shared, "--data-parallel-start-rank", "1", "--headless")
    with started(SCARCE, tmp_path / "engines.log", *alone), Server(SCARCE, tmp_path, *shared) as server:
        assert server.generate(asks([{}])) == stock_answers
        figures = server.get("/metrics")
    for rank in (0, 1):
        assert re.search(rf'vllm:request_success_total{{engine="{rank}".*"length".* [1-9]', figures)
    for log in (server.log, tmp_path / "engines.log"):
        assert f"Using custom scheduler class {classes.BRIM.replace(':', '.')}" in log.read_text()


WINDOWS = Host(num_blocks=400, model=models.WINDOWS)
ADAPTERS = Host(num_blocks=200, changes={"enable_lora": True, "max_loras": 1, "max_lora_rank": 8})


def with_adapters(asks: Sequence[Ask]) -> list[Ask]:
    """Two in turn. On a CPU the answers without an adapter depend on who else runs, under vLLM alone too."""
    return [replace(ask, adapter=1 + index // 2 % 2) for index, ask in enumerate(asks)]


@pytest.mark.parametrize(
    ("ample", "num_blocks", "adapters"),
    [(WINDOWS, 34, False), (ADAPTERS, 18, True)],
    ids=["layers with a window", "adapters"],
)
def test_with_other_features_of_vllm(ample: Host, num_blocks: int, adapters: bool) -> None:
    def ask(facts: Sequence[dict[str, Any]]) -> list[Ask]:
        return with_adapters(asks(facts)) if adapters else asks(facts)

    with engine(ample) as llm:
        stock = generate(llm, ask([{}]))
        assert adapters == (generate(llm, asks([{}])) != stock)
    scarce = replace(SCARCE, num_blocks=num_blocks, model=ample.model, changes=ample.changes)
    with engine(replace(scarce, asynchronous=True)) as llm:
        assert generate(llm, ask(FACTS)) == stock
        scheduler = scheduler_of(llm)
        assert scheduler.brim_mode == "active"
        assert bool(scheduler.brim_left_to_vllm) == (ample is WINDOWS)
        assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == num_blocks - 1


def test_with_kv_that_is_kept_elsewhere(stock_answers: list[list[int]], tmp_path: Path) -> None:
    """vLLM's connector for examples keeps what a prompt's first step computes: first one at a time."""
    store = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    store["kv_connector_extra_config"] = {"shared_storage_path": str(tmp_path)}
    ample = Host(num_blocks=200, max_num_seqs=32, changes={"kv_transfer_config": store})
    with engine(ample) as llm:
        assert [generate(llm, [ask])[0] for ask in asks([{}])] == stock_answers
    with engine(replace(ample, scheduler=classes.BRIM, additional_config=SCARCE.additional_config)) as llm:
        scheduler = scheduler_of(llm)
        allocated = scheduler.connector.update_state_after_alloc
        with patch.object(scheduler.connector, "update_state_after_alloc", wraps=allocated) as told:
            assert generate(llm, asks(FACTS)) == stock_answers
        assert sum(call.args[2] for call in told.call_args_list) > 10 * 32  # tokens that were loaded
        assert (scheduler.brim_mode, scheduler.brim_left_to_vllm) == ("active", [])


def test_a_server_that_guesses(tmp_path: Path) -> None:
    """In a process of its own: what guesses imports keeps vLLM from starting a second engine beside it."""
    guesses = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}

    def ask(facts: Sequence[dict[str, Any]]) -> list[Ask]:
        return [replace(ask, allowed=(5, 6, 7)) for ask in asks(facts)]  # else no guess would be right

    with engine(Host(num_blocks=200)) as llm:
        stock = generate(llm, ask([{}]))
    host = replace(SCARCE, changes={"speculative_config": guesses})
    with Server(host, tmp_path, NUMBA_DISABLE_JIT="1") as server:
        assert server.generate(ask(FACTS)) == stock
        accepted, drafted = (
            _total(server, f"vllm:spec_decode_num_{n}_tokens") for n in ("accepted", "draft")
        )
    assert 0 < accepted < drafted


def _total(server: Server, name: str) -> float:
    lines = server.get("/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}_total"))
