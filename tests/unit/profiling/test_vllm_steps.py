"""vLLM's steps, timed: on a stand-in for its engine, which admits, caches and batches as vLLM does."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("scipy", reason="needs brim[profiling]: numpy and scipy")

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs
from brim.engines.base import EngineCaps, Footprint
from brim.profiling import vllm_steps
from brim.profiling.engine_steps import QUICK, Sizes
from brim.profiling.on_engine import Measurement
from brim.profiling.vllm_steps import VllmSteps

TRUE = StepTime(8_000_000_000, 5_000_000, ((256, 12_000_000),), 700, 2_000_000, 45_000, 3_000_000, 9_000)
HOST_NS = 400_000  # of a step's time, before the device has it
BLOCK_SIZE = 16
FOOTPRINT = Footprint("an abacus", 1, 1, 1)


class Request:
    def __init__(self, name: str, prompt: Sequence[int], max_tokens: int) -> None:
        self.name, self.prompt, self.max_tokens = name, tuple(prompt), max_tokens
        self.num_prompt_tokens, self.num_computed_tokens = len(prompt), 0


class Scheduler:
    """Running requests first, then waiting ones; the blocks of prompts stay in the prefix cache."""

    def __init__(self, budget: int, longest_chunk: int) -> None:
        self.requests: dict[str, Request] = {}
        self.waiting: deque[str] = deque()
        self.running: list[str] = []
        self._budget, self._longest_chunk = budget, longest_chunk
        self._cached: set[tuple[int, ...]] = set()

    def has_requests(self) -> bool:
        return bool(self.requests)

    def schedule(self, throttle: bool = False) -> SimpleNamespace:
        left, given = self._budget, {}
        for name in self.running:
            given[name] = min(self._missing(name), left, self._longest_chunk)
            left -= given[name]
        while self.waiting and left:
            name = self.waiting.popleft()
            self.requests[name].num_computed_tokens = self._found(self.requests[name].prompt)
            given[name] = min(self._missing(name), left, self._longest_chunk)
            left -= given[name]
            self.running.append(name)
        given = {name: count for name, count in given.items() if count}
        for name, count in given.items():
            self.requests[name].num_computed_tokens += count
        return SimpleNamespace(num_scheduled_tokens=given)

    def update_from_output(self, output: SimpleNamespace, result: None) -> None:
        for name in output.num_scheduled_tokens:
            request = self.requests.get(name)
            if request is None:
                continue
            prompt, computed = request.prompt, request.num_computed_tokens
            self._cached |= {prompt[:end] for end in range(BLOCK_SIZE, computed + 1, BLOCK_SIZE)}
            if computed - len(prompt) + 1 >= request.max_tokens:
                self.drop(name)

    def drop(self, name: str) -> None:
        if self.requests.pop(name, None):
            (self.waiting if name in self.waiting else self.running).remove(name)

    def _missing(self, name: str) -> int:
        request = self.requests[name]
        if request.num_computed_tokens - request.num_prompt_tokens + 1 >= request.max_tokens:
            return 0  # its last token is under way
        return max(request.num_prompt_tokens - request.num_computed_tokens, 1)

    def _found(self, prompt: tuple[int, ...]) -> int:
        """Tokens that the cache holds, never the last one."""
        whole = range((len(prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE, 0, -BLOCK_SIZE)
        return next((end for end in whole if prompt[:end] in self._cached), 0)


class Core:
    """A device whose steps take what `TRUE` says, and a host; `ahead`: it schedules while the device runs."""

    def __init__(self, scheduler: Scheduler, ahead: bool) -> None:
        self.scheduler, self.ahead = scheduler, ahead
        self.batch_queue: deque[tuple[SimpleNamespace, int]] = deque()
        self.now_ns = self._free_ns = 0
        self.shapes: list[StepShape] = []

    def step(self) -> None:
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            self.now_ns += HOST_NS
            self.shapes.append(shape := self._shape(output.num_scheduled_tokens))
            self._free_ns = max(self._free_ns, self.now_ns) + TRUE.picoseconds(shape) // 1000
            self.batch_queue.append((output, self._free_ns))
            if self.ahead and len(self.batch_queue) < 2:
                return
        output, ready_ns = self.batch_queue.popleft()
        self.now_ns = max(self.now_ns, ready_ns)
        self.scheduler.update_from_output(output, None)

    def _shape(self, given: dict[str, int]) -> StepShape:
        chunks, context, decodes = [], 0, 0
        for name, count in given.items():
            computed = self.scheduler.requests[name].num_computed_tokens
            if count == 1:
                decodes, context = decodes + 1, context + computed
            else:
                chunks.append((count, computed - count))
        tokens = decodes + sum(count for count, _ in chunks)
        return StepShape(tokens, sum(attention_pairs(*chunk) for chunk in chunks), decodes, context)


class Engine:
    """The parts of vLLM's `LLMEngine` that are used."""

    def __init__(self, ahead: bool = False, budget: int = 2048, longest_chunk: int = 2048) -> None:
        self.core = Core(Scheduler(budget, longest_chunk), ahead)
        self.engine_core = SimpleNamespace(engine_core=self.core, get_output=self.core.step)
        limits = SimpleNamespace(max_num_seqs=256, max_num_batched_tokens=budget)
        parallel = SimpleNamespace(tensor_parallel_size=2)
        self.vllm_config = SimpleNamespace(scheduler_config=limits, parallel_config=parallel)

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        self.core.scheduler.requests[name] = Request(name, prompt["prompt_token_ids"], params.max_tokens)
        self.core.scheduler.waiting.append(name)

    def abort_request(self, names: Sequence[str]) -> None:
        for name in names:
            self.core.scheduler.drop(name)


@pytest.fixture(autouse=True)
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("vllm")
    module.SamplingParams = lambda **fields: SimpleNamespace(**fields)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_steps, "caps_of", caps_of)
    monkeypatch.setattr(vllm_steps, "_source", lambda engine: "measured: a stand-in")
    return iter(())


def caps_of(engine: Engine) -> EngineCaps:
    depth = 2 if engine.core.ahead else 1
    return EngineCaps("vllm", "m", 4096, BLOCK_SIZE, 2048, 100, depth, footprint=FOOTPRINT)


def steps_of(engine: Engine) -> VllmSteps:
    return VllmSteps(engine, lambda: engine.core.now_ns)


SIZES = [
    Sizes(1, 64, 0, 0, 0),
    Sizes(8, 500, 0, 0, 0),
    Sizes(0, 0, 1, 64, 0),
    Sizes(0, 0, 4, 32, 0),
    Sizes(0, 0, 1, 96, 512),
    Sizes(3, 64, 2, 40, 512),
]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_step_holds_what_was_asked_for_and_its_time_is_its_own(sizes: Sizes, ahead: bool) -> None:
    """The second time too, when prompts come from the cache; and nothing is left behind."""
    engine = Engine(ahead)
    steps = steps_of(engine)
    for _ in range(2):
        shape, took_ns = steps.took(sizes)
        drift = 2 * sizes.decodes if ahead else sizes.decodes  # a decode or two until all others are let in
        assert shape._replace(decode_context=0) == sizes.shape._replace(decode_context=0)
        assert 0 <= shape.decode_context - sizes.shape.decode_context <= drift
        hidden = ahead  # the host works while the step before runs
        assert took_ns == TRUE.picoseconds(shape) // 1000 + (0 if hidden else HOST_NS)
        assert not engine.core.scheduler.requests
        assert not engine.core.batch_queue


@pytest.mark.parametrize("ahead", [False, True])
def test_the_profile_gives_the_step_times_back_with_the_hosts_share(ahead: bool) -> None:
    engine = Engine(ahead)
    steps = steps_of(engine)
    profile = Measurement.of(steps, QUICK, steps.max_num_seqs, steps.max_num_batched_tokens).run("x")
    assert profile.fit is not None
    assert profile.fit.held_back.mape < 1e-3
    assert (profile.tensor_parallel, profile.source) == (2, "measured: a stand-in")
    decode = StepShape(8, 0, 8, 4096)
    expected = TRUE.seconds(decode) + (0.0 if ahead else HOST_NS / 1e9)
    assert profile.step_time.seconds(decode) == pytest.approx(expected, rel=0.02)


def test_a_scheduler_that_cuts_prompts_is_said() -> None:
    with pytest.raises(ConfigError, match="leave out flags that cut prompts"):
        steps_of(Engine(longest_chunk=32)).took(Sizes(0, 0, 1, 64, 0))


def test_the_scheduler_is_its_own_again_in_the_end() -> None:
    engine = Engine()
    steps_of(engine).close()
    assert "schedule" not in vars(engine.core.scheduler)
