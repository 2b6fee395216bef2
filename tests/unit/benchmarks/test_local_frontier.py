"""The frontier's workload, figures and verdicts, and a slice of it on the scripted engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.clocks import ProcessorClock
from benchmarks.frontier_figures import (
    SCALES,
    Contender,
    Line,
    best_fixed,
    figures,
    show,
    summed_up,
    verdict,
)
from benchmarks.local_frontier import (
    ALONE,
    SHARED_TOKENS,
    SIZES,
    Kept,
    config_of,
    contenders,
    offline_requests,
    online_requests,
    run_slice,
)

from brim.core.policies.named import named
from brim.core.request import SLO
from brim.core.scheduler import Scheduler
from brim.engines.scripted import ScriptedEngine

NONE_NS, AMPLE_NS = 1, 60_000_000_000
LINE = Line("bs 8", [1.0, 2.0], [1.0, 2.0], 1.0, 100.0, dict.fromkeys(SCALES, 1.0), {})


def line(name: str, tokens_s: float, attained: float) -> Line:
    return replace(LINE, name=name, offline_tokens_s=tokens_s, attainment=dict.fromkeys(SCALES, attained))


def found(met: int, arrived: int, tokens_s: float = 1.0) -> dict[str, object]:
    return {
        "ttft_ms": [tokens_s, 2.0],
        "itl_ms": [3.0, 4.0],
        "offline_tokens_s": tokens_s,
        "busy": 0.5,
        "met": [(met, arrived)] * len(SCALES),
        "step_error": {"p50": tokens_s},
    }


def test_a_seed_asks_for_the_same_again_and_another_for_something_else() -> None:
    assert online_requests(20, 3, SLO(), 7) == online_requests(20, 3, SLO(), 7)
    assert online_requests(20, 3, SLO(), 7) != online_requests(20, 3, SLO(), 8)
    assert all(0 <= request.arrival_ns < 3 * 10**9 for request in online_requests(20, 3, SLO(), 7))


def test_offline_requests_share_their_beginning_and_nothing_else() -> None:
    prompts = [request.prompt_token_ids for request in offline_requests(50, 7)]
    assert len({tuple(prompt[:SHARED_TOKENS]) for prompt in prompts}) == 1
    assert len({tuple(prompt[SHARED_TOKENS:]) for prompt in prompts}) == len(prompts)
    assert prompts[0][:SHARED_TOKENS] != offline_requests(1, 8)[0].prompt_token_ids[:SHARED_TOKENS]


def test_every_contender_is_named_once() -> None:
    names = [who.name for who in contenders()]
    assert len(names) == len(set(names))
    assert {"vllm", "priority", "bs 64", "bs-e-s 2x", "echo 1.5x"} < set(names)


def test_attainment_is_of_all_rounds_and_the_rest_a_median() -> None:
    rounds = [found(10, 10, 3.0), found(0, 30, 5.0), found(10, 10, 100.0)]
    told = summed_up(Contender("echo 2x", "echo", 2.0), rounds)
    assert told.attainment == {2.0: 0.4}
    assert (told.offline_tokens_s, told.ttft_ms, told.step_error) == (5.0, [5.0, 2.0], {"p50": 5.0})
    assert summed_up(Contender("bs 8", "bs"), rounds).attainment == dict.fromkeys(SCALES, 0.4)


def test_the_best_fixed_budget_attains_as_much_or_the_aim() -> None:
    lines = [line("bs 8", 100, 1.0), line("bs 64", 200, 0.995), line("bs 256", 300, 0.6)]
    assert best_fixed(lines, 2.0, 1.0) is lines[1]
    assert best_fixed(lines, 2.0, 0.5) is lines[2]
    assert best_fixed(lines[2:], 2.0, 0.9) is None
    assert best_fixed([line("echo 2x", 400, 1.0)], 2.0, 1.0) is None


@pytest.mark.parametrize(
    ("tokens_s", "attained", "expected"),
    [
        (190, 0.99, "99.00 % met; throughput 0.95x of bs 64 met"),
        (188, 1.0, "100.00 % met; throughput 0.94x of bs 64 MISSED"),
        (190, 0.98, "98.00 % MISSED; throughput 0.95x of bs 64 met"),
    ],
)
def test_a_verdict_holds_both_aims(tokens_s: float, attained: float, expected: str) -> None:
    lines = [line("bs 64", 200, 0.995), line("bs 256", 300, 0.6)]
    assert verdict(line("echo 2x", tokens_s, attained), 2.0, lines).endswith(expected)


def test_a_verdict_without_a_fixed_budget_to_compare_with() -> None:
    assert "no fixed budget" in verdict(line("echo 2x", 1, 0.9), 2.0, [line("bs 8", 100, 0.5)])


@pytest.mark.parametrize("clock", [None, ProcessorClock()], ids=["wall", "processor"])
def test_a_slice_counts_every_online_request_of_its_window(
    clock: ProcessorClock | None, capsys: pytest.CaptureFixture[str]
) -> None:
    window, who = (0.1, 0.4), Contender("echo 2x", "echo", 2.0)
    online = online_requests(40, window[1], SLO(ttft_ns=AMPLE_NS), 1)
    engine = ScriptedEngine(SIZES["num_blocks"], SIZES["block_size"], max_model_len=1024)
    kept = Kept(engine) if clock is None else Kept(engine, lambda: round(1e9 * clock.seconds()))
    scheduler = Scheduler(config_of(who))
    ran = run_slice(kept, scheduler, online, offline_requests(20, 1), window, clock)
    assert len(scheduler) == 0
    ample, none = SLO(ttft_ns=AMPLE_NS, itl_ns=AMPLE_NS), SLO(ttft_ns=NONE_NS)
    result = figures(ran, [none, ample, ample])
    arrived = sum(request.arrival_ns >= window[0] * 10**9 for request in online)
    assert result["met"] == [(0, arrived), (arrived, arrived), (arrived, arrived)]
    assert result["step_error"]["steps"] > 0
    assert result["busy"] > 0
    assert ran.offline_left <= 20

    show([summed_up(who, [result])])
    assert "100.00 % met" in capsys.readouterr().out


def test_online_requests_alone_leave_no_offline_tokens() -> None:
    kept = Kept(ScriptedEngine(SIZES["num_blocks"], SIZES["block_size"], max_model_len=1024))
    scheduler = Scheduler(config_of(ALONE))
    ran = run_slice(kept, scheduler, online_requests(30, 0.2, SLO(), 1), [], (0, 0.2))
    result = figures(ran, [SLO()] * 3)
    assert result["offline_tokens_s"] == 0
    assert result["ttft_ms"][0] > 0


def test_a_policy_goes_on_with_the_next_slice() -> None:
    """Nobody of the slice before is left in what it knows."""
    kept = Kept(ScriptedEngine(SIZES["num_blocks"], SIZES["block_size"], max_model_len=1024))
    config = config_of(Contender("echo 2x", "echo", 2.0))
    policy = named(config)
    for seed in (1, 2):
        online = online_requests(40, 0.2, SLO(ttft_ns=AMPLE_NS, itl_ns=AMPLE_NS), seed)
        scheduler = Scheduler(config, policy)
        ran = run_slice(kept, scheduler, online, offline_requests(3000, seed), (0, 0.2))
        assert ran.offline_left > 0
        assert len(scheduler) == 0
        assert policy.timing is not None
        assert not len(policy.timing.watch.dues)
