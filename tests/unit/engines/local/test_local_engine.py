from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from brim.core.errors import EngineDead
from brim.core.plan import Chunk, StepPlan, StepResult
from brim.core.request import GREEDY, Request, RequestState, SamplingParams
from brim.engines.base import Engine
from brim.engines.local.engine import LocalEngine

PROMPT = tuple(range(10, 50))


class Blocks:
    """Hands out blocks of the session's engine."""

    def __init__(self) -> None:
        self.next = 0

    def state(
        self, name: str, prompt: tuple[int, ...] = PROMPT, sampling: SamplingParams = GREEDY
    ) -> RequestState:
        state = RequestState(Request(name, prompt, sampling=sampling), 0)
        state.block_ids = list(range(self.next, self.next + 4))
        self.next += 4
        state.admit(0)
        return state


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


def run(
    engine: Engine, *, decodes: tuple[RequestState, ...] = (), chunks: tuple[Chunk, ...] = ()
) -> StepResult:
    engine.begin(StepPlan(0, decodes, chunks))
    return engine.finish()


def whole(state: RequestState) -> Chunk:
    state.schedule(state.num_tokens)
    return Chunk(state, 0, state.num_tokens, True)


def speak(engine: Engine, state: RequestState, count: int) -> list[int]:
    """Prefill, then decodes, alone."""
    state.append(run(engine, chunks=(whole(state),)).token_ids[0])
    for _ in range(count - 1):
        state.schedule(1)
        state.append(run(engine, decodes=(state,)).token_ids[0])
    return state.token_ids[state.num_prompt_tokens :]


def test_caps_tell_what_it_is(engine: LocalEngine) -> None:
    caps = engine.caps
    assert (caps.num_blocks, caps.block_size, caps.max_model_len) == (64, 16, 1024)
    assert (caps.name, caps.device, caps.dtype, caps.depth) == ("local", "cpu", "float32", 1)


def test_tokens_come_in_the_order_of_sampling(engine: LocalEngine, blocks: Blocks) -> None:
    alone = [speak(engine, blocks.state(f"a{n}", PROMPT[n:]), 2) for n in range(3)]
    states = [blocks.state(f"b{n}", PROMPT[n:]) for n in range(3)]
    run(engine, chunks=tuple(whole(state) for state in states[:2]))
    for state, (first, _) in zip(states[:2], alone, strict=False):
        state.append(first)
        state.schedule(1)
    states[2].schedule(30)
    silent = Chunk(states[2], 0, 30, False)
    assert run(engine, decodes=tuple(states[:2]), chunks=(silent,)).token_ids == [alone[0][1], alone[1][1]]
    states[2].schedule(states[2].num_tokens - 30)
    last = Chunk(states[2], 30, states[2].num_tokens - 30, True)
    plan = StepPlan(1, (states[1], states[0]), (last,))
    engine.begin(plan)
    assert [state.request.request_id for state in plan.sampling()] == ["b1", "b0", "b2"]
    assert engine.finish().token_ids == [alone[1][1], alone[0][1], alone[2][0]]


def test_the_same_rows_again_give_the_same_tokens(engine: LocalEngine, blocks: Blocks) -> None:
    sampling = SamplingParams(temperature=1.0)
    states = [blocks.state(f"r{n}", PROMPT[n:], sampling) for n in range(4)]
    plan = StepPlan(0, (), tuple(whole(state) for state in states))
    engine.begin(plan)
    together = engine.finish().token_ids
    engine.begin(plan)
    assert engine.finish().token_ids == together
    halves = [plan.part(plan.rows()[:2]), plan.part(plan.rows()[2:])]
    apart: list[int] = []
    for half in halves:
        engine.begin(half)
        apart += engine.finish().token_ids
    assert apart == together


@pytest.mark.parametrize("seed", [None, 5])
def test_recomputed_after_a_preemption_it_goes_on_alike(
    engine: LocalEngine, blocks: Blocks, seed: int | None
) -> None:
    sampling = SamplingParams(temperature=1.0, seed=seed)
    undisturbed = speak(engine, blocks.state("same", sampling=sampling), 8)
    state = blocks.state("same", sampling=sampling)
    speak(engine, state, 4)
    state.preempt()
    state.block_ids = blocks.state("other").block_ids
    state.append(run(engine, chunks=(whole(state),)).token_ids[0])
    assert state.token_ids[state.num_prompt_tokens :] == undisturbed[:5]


def test_requests_without_a_seed_differ(engine: LocalEngine, blocks: Blocks) -> None:
    sampling = SamplingParams(temperature=1.0)
    said = {tuple(speak(engine, blocks.state(name, sampling=sampling), 6)) for name in "abcd"}
    assert len(said) == 4


def test_logprobs_go_to_those_who_asked(engine: LocalEngine, blocks: Blocks) -> None:
    asking = blocks.state("asking", sampling=SamplingParams(temperature=0.0, logprobs=3))
    result = run(engine, chunks=(whole(blocks.state("silent")), whole(asking)))
    assert set(result.logprobs) == {"asking"}
    entry = result.logprobs["asking"]
    assert entry.token_id == result.token_ids[1] == entry.top[0][0]
    assert len(entry.top) == 3
    assert entry.logprob == entry.top[0][1] < 0


@pytest.fixture
def poisoned_token(engine: LocalEngine) -> Iterator[int]:
    """A token whose embedding is NaN for as long as the test runs."""
    assert engine._paged is not None
    weight = engine._paged._model.get_input_embeddings().weight
    with torch.no_grad():
        kept = weight[7].clone()
        weight[7] = math.nan
        yield 7
        weight[7] = kept


def test_non_finite_logits_fail_their_own_request(
    engine: LocalEngine, blocks: Blocks, poisoned_token: int
) -> None:
    good, bad = blocks.state("good"), blocks.state("bad", (*PROMPT, poisoned_token))
    expected = run(engine, chunks=(whole(blocks.state("alone")),)).token_ids
    result = run(engine, chunks=(whole(bad), whole(good)))
    assert list(result.errors) == ["bad"]
    assert "non-finite" in result.errors["bad"]
    assert result.token_ids[1] == expected[0]
    heir = blocks.state("heir")
    heir.block_ids = bad.block_ids  # what the failed request wrote does no harm
    assert run(engine, chunks=(whole(heir),)).token_ids == expected


def test_a_token_outside_the_vocabulary_fails_the_step(engine: LocalEngine, blocks: Blocks) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        run(engine, chunks=(whole(blocks.state("odd", (1, engine.caps.vocab_size))),))
    assert len(run(engine, chunks=(whole(blocks.state("fine")),)).token_ids) == 1


def test_a_lost_device_is_the_end(
    engine: LocalEngine, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*sizes: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine._paged, "step", lose)
    with pytest.raises(EngineDead, match="illegal memory access"):
        engine.begin(StepPlan(0, (), (whole(blocks.state("any")),)))


def test_finish_needs_a_begin(engine: LocalEngine) -> None:
    with pytest.raises(RuntimeError, match="without a step begun"):
        engine.finish()


def test_a_closed_engine_runs_nothing(engine: LocalEngine, blocks: Blocks) -> None:
    assert engine._paged is not None
    other = LocalEngine(engine._paged, engine.caps)
    other.close()
    with pytest.raises(EngineDead, match="closed"):
        other.begin(StepPlan(0, (), (whole(blocks.state("late")),)))
