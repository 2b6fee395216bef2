"""Real steps of vLLM, timed: the grid of `engine_steps`, brought about by requests through vLLM's scheduler.

vLLM runs in this process, with the flags that its server would have. What a step held is read from what its
scheduler gave out; its time lies between two results, scheduling and the host's other work included. Where
steps are scheduled asynchronously, that is what a step adds, and not how long it is under way.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from brim.core.errors import ConfigError, MissingPackages
from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.engines.base import EngineCaps, Footprint
from brim.profiling.engine_steps import Sizes

LEAD_TOKENS = 16  # of a prompt that only keeps the device busy
MOST_STEPS = 10_000  # a request that needs more is stuck
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
DECODE, CHUNK, OTHER = "decode", "chunk", "other"  # what a request is for; its name begins with it


@contextmanager
def vllm_engine(model: str, flags: Sequence[str]) -> Iterator[Any]:
    """vLLM's engine in this process; `flags` are its own. Raises ConfigError where vLLM isn't installed."""
    os.environ.update(ENVIRONMENT)  # read when vLLM is imported, and by its workers
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from vllm import EngineArgs, LLMEngine
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError as exc:
        raise MissingPackages(f"vLLM is not installed here ({exc})", "vllm,profiling") from exc
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="vLLM's flags"))
    arguments = EngineArgs.from_cli_args(parser.parse_args(["--model", model, *flags]))
    engine = LLMEngine.from_engine_args(arguments)
    gc.collect()
    gc.freeze()  # as vLLM's server does
    try:
        yield engine
    finally:
        engine.engine_core.shutdown()


class _Step(NamedTuple):
    decodes: int
    prompts: int
    others: int
    shape: StepShape
    whole: bool  # every prompt from its first token that is not cached to its last
    begin_ns: int


class Observer:
    """Tells of each step, in order, what it held and when its result came.

    It stands around two methods of the scheduler, each called once a step. `schedule` has counted the step's
    tokens as computed when it returns.
    """

    def __init__(self, scheduler: Any, clock_ns: Callable[[], int]) -> None:
        self.ended: list[tuple[_Step, int]] = []
        self._scheduler, self._clock_ns = scheduler, clock_ns
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        self._under_way: deque[_Step] = deque()
        self._begun: set[str] = set()
        self._result_ns = 0
        scheduler.schedule, scheduler.update_from_output = self._scheduled, self._updated

    def close(self) -> None:
        del self._scheduler.schedule, self._scheduler.update_from_output

    def forget(self) -> None:
        """Begins anew, with other requests."""
        self.ended.clear()
        self._begun.clear()

    def _scheduled(self, *args: Any, **kwargs: Any) -> Any:
        begin_ns = self._clock_ns()
        output = self._schedule(*args, **kwargs)
        self._under_way.append(self._step(output.num_scheduled_tokens, begin_ns))
        return output

    def _updated(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._update(*args, **kwargs)
        now_ns, step = self._clock_ns(), self._under_way.popleft()
        self.ended.append((step, now_ns - max(step.begin_ns, self._result_ns)))
        self._result_ns = now_ns
        return outputs

    def _step(self, num_tokens: dict[str, int], begin_ns: int) -> _Step:
        decodes, context, chunks, prompts, tokens, pairs, whole = 0, 0, 0, 0, 0, 0, True
        for name, count in num_tokens.items():
            request = self._scheduler.requests[name]
            computed = request.num_computed_tokens
            if count == 1:
                decodes, context = decodes + 1, context + computed
            else:
                chunks, tokens = chunks + 1, tokens + count
                prompts += name.startswith(CHUNK)
                pairs += attention_pairs(count, computed - count)
                whole &= computed >= request.num_prompt_tokens and name not in self._begun
        self._begun |= num_tokens.keys()
        shape = StepShape(decodes + tokens, pairs, decodes, context)
        return _Step(decodes, prompts, chunks - prompts, shape, whole, begin_ns)


class VllmSteps:
    """Brings a step of given sizes about and times it.

    Requests that decode have prompts of their own, which the prefix cache keeps: after the first time, a
    context is there again at the price of a block. So vLLM's prefix cache should be on, as it is by default.
    """

    notes = (
        "From one result to the next: with the scheduler's work and the engine's on the host; without the "
        "server's other processes.",
    )

    def __init__(self, engine: Any, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.caps, self.tensor_parallel = caps_of(engine), _tensor_parallel(engine)
        self.source = _source(engine)
        limits = engine.vllm_config.scheduler_config
        self.max_num_seqs: int = limits.max_num_seqs
        self.max_num_batched_tokens: int = limits.max_num_batched_tokens
        self._engine = engine
        self._observer = Observer(engine.engine_core.engine_core.scheduler, clock_ns)
        self._num_requests = 0
        self._live: list[str] = []
        self._texts: dict[int, list[int]] = {}

    def close(self) -> None:
        self._observer.close()

    def fill(self, num_blocks: int) -> None:
        """The first round of steps writes what they read."""

    def took(self, sizes: Sizes) -> tuple[StepShape, int]:
        """What the step held, and its nanoseconds. Raises ConfigError where vLLM does not run such a step."""
        rows = range(sizes.decodes, sizes.decodes + sizes.prompts)
        try:
            if sizes.start:
                for row in rows:
                    self._add(OTHER, self._prompt(row, sizes.start), 1)
                self._run_until(lambda: not self._engine.engine_core.engine_core.scheduler.has_requests())
                self._release()
            if sizes.decodes:
                for row in range(sizes.decodes):
                    self._add(
                        DECODE, self._prompt(row, sizes.context - 2), 1 << 20
                    )  # a first token, and a decode
                self._run_until(lambda: self._shown(sizes._replace(prompts=0)) is not None)
            elif self.caps.depth > 1:  # what a step adds shows behind another only
                self._add(OTHER, self._prompt(0, LEAD_TOKENS), 1)
                self._engine.engine_core.get_output()
            self._observer.ended.clear()
            for row in rows:
                fresh = random.Random(f"fresh {self._num_requests}")
                own = fresh.choices(range(self.caps.vocab_size), k=sizes.chunk)
                self._add(CHUNK, [*self._prompt(row, sizes.start), *own], 1)
            self._run_until(lambda: self._shown(sizes) is not None)
            found = self._shown(sizes)
            assert found is not None
            return found
        finally:
            self._release()

    def _shown(self, sizes: Sizes) -> tuple[StepShape, int] | None:
        """The first step of these sizes since the record was cleared."""
        wanted = (sizes.decodes, sizes.prompts, 0, True)
        for step, took_ns in self._observer.ended:
            if (step.decodes, step.prompts, step.others, step.whole) == wanted:
                return step.shape, took_ns
        return None

    def _run_until(self, done: Callable[[], bool]) -> None:
        core = self._engine.engine_core
        for _ in range(MOST_STEPS):
            if done():
                return
            if not core.engine_core.scheduler.has_requests():
                break
            core.get_output()
        raise ConfigError(
            "vLLM did not run a step as it was wanted: leave out flags that cut prompts or hold requests back"
        )

    def _add(self, kind: str, prompt: Sequence[int], max_tokens: int) -> None:
        from vllm import SamplingParams

        most = self.caps.max_model_len - len(prompt)
        params = SamplingParams(
            temperature=0.0, max_tokens=min(max_tokens, most), ignore_eos=True, detokenize=False
        )
        name = f"{kind}-{self._num_requests}"
        self._num_requests += 1
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
        self._live.append(name)

    def _release(self) -> None:
        """Ends all requests, and runs what is under way still."""
        self._engine.abort_request(self._live)
        self._live.clear()
        core = self._engine.engine_core
        while core.engine_core.scheduler.has_requests() or core.engine_core.batch_queue:
            core.get_output()
        self._observer.forget()

    def _prompt(self, row: int, num_tokens: int) -> list[int]:
        """The beginning of a text that is this row's own."""
        if num_tokens > len(self._texts.get(row, ())):
            self._texts[row] = random.Random(f"row {row}").choices(range(self.caps.vocab_size), k=num_tokens)
        return self._texts[row][:num_tokens] if num_tokens else []


def caps_of(engine: Any) -> EngineCaps:
    """What vLLM's engine is and holds, in the words of Brim's engines."""
    config = engine.vllm_config
    cache, model = config.cache_config, config.model_config
    return EngineCaps(
        name="vllm",
        model=Path(model.model).resolve().name if Path(model.model).is_dir() else model.model,
        num_blocks=cache.num_gpu_blocks - 1,  # one is never given out
        block_size=cache.block_size,
        max_model_len=model.max_model_len,
        vocab_size=model.get_vocab_size(),
        depth=2 if config.scheduler_config.async_scheduling else 1,
        device=config.device_config.device_type,
        dtype=str(model.dtype).removeprefix("torch."),
        footprint=_footprint(engine),
    )


def _footprint(engine: Any) -> Footprint:
    from vllm.platforms import current_platform

    ranks = _tensor_parallel(engine)
    groups = engine.engine_core.engine_core.scheduler.kv_cache_config.kv_cache_groups
    kv_bytes = sum(
        len(group.layer_names) * group.kv_cache_spec.page_size_bytes / group.kv_cache_spec.block_size
        for group in groups
    )
    return Footprint(
        hardware=str(current_platform.get_device_name()) or current_platform.device_type,
        memory_bytes=ranks * current_platform.get_device_total_memory(),
        weight_bytes=sum(engine.apply_model(_weight_bytes)),
        kv_bytes_per_token=round(ranks * kv_bytes),
    )


def _weight_bytes(model: Any) -> int:
    return sum(each.nbytes for each in model.parameters())


def _tensor_parallel(engine: Any) -> int:
    parallel: int = engine.vllm_config.parallel_config.tensor_parallel_size
    return parallel


def _source(engine: Any) -> str:
    import vllm

    config = engine.vllm_config
    scheduling = "asynchronous" if config.scheduler_config.async_scheduling else "synchronous"
    scheduler = type(engine.engine_core.engine_core.scheduler).__name__
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    return (
        f"measured: vLLM {vllm.__version__}, {dtype} on {config.device_config.device_type}, "
        f"{scheduling} scheduling by {scheduler}"
    )
