"""vLLM's real scheduler and KV cache manager, without an engine around them.

The driver does what `EngineCore` does: schedule, execute, update, one step at a time or (`steps_in_flight=2`)
one step ahead, as with asynchronous scheduling. After every step it looks for what must never be.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from tests.plugins.vllm import classes, connector, models
from tests.plugins.vllm.clock import ToldClock
from tests.plugins.vllm.grammar import follows_grammar
from tests.plugins.vllm.worker import Worker

MAX_MODEL_LEN = 512
PATIENCE_STEPS = 100  # without any token, before the requests count as stuck


@dataclass(frozen=True)
class Limits:
    """What the scheduler may use; `steps_in_flight` is 2 for asynchronous scheduling.

    `windows` are those of further groups of layers. `guesses` is how many tokens a step guesses ahead,
    `adapters` how many a step may have, `images` how many tokens of them it may encode. With a `connector`
    KV is also kept outside. With a `pipeline` of so many stages as many more steps are in flight. With
    `grammars` some requests wait for theirs.
    """

    num_blocks: int = 64
    block_size: int = 16
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 128
    prefix_caching: bool = True
    policy: str = "fcfs"
    steps_in_flight: int = 1
    windows: tuple[int, ...] = ()
    guesses: int = 0
    adapters: int = 0
    images: int = 0
    connector: bool = False
    pipeline: int = 1
    grammars: bool = False
    additional_config: dict[str, Any] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Tokens that one request may have, with all blocks but vLLM's null block to itself."""
        groups = 1 + len(self.windows)
        return min(MAX_MODEL_LEN, (self.num_blocks - 1) // groups * self.block_size)


def make_scheduler(cls: Any, limits: Limits) -> Any:
    """A scheduler of that class for one full-attention layer and `windows`, with nothing behind it."""
    cache = CacheConfig(block_size=limits.block_size, enable_prefix_caching=limits.prefix_caching)
    with classes.async_on_cpu():
        config = VllmConfig(
            model_config=ModelConfig(
                model=str(models.ensure()),
                dtype="float32",
                max_model_len=limits.longest,
                skip_tokenizer_init=True,
            ),
            scheduler_config=SchedulerConfig(
                max_num_seqs=limits.max_num_seqs,
                max_num_batched_tokens=limits.max_num_batched_tokens,
                max_model_len=limits.longest,
                is_encoder_decoder=False,
                enable_chunked_prefill=True,
                async_scheduling=limits.steps_in_flight > 1,
                policy=limits.policy,
            ),
            cache_config=cache,
            parallel_config=ParallelConfig(),
            additional_config=limits.additional_config,
            kv_transfer_config=connector.config() if limits.connector else None,
            lora_config=LoRAConfig(max_loras=limits.adapters, max_lora_rank=8) if limits.adapters else None,
        )
    config.parallel_config.pipeline_parallel_size = limits.pipeline  # from here on: nothing is started
    config.speculative_config = guessing(limits.guesses)
    cache.num_gpu_blocks = limits.num_blocks
    register_all_kvcache_specs(config)
    init_none_hash(sha256)
    shape: dict[str, Any] = {
        "block_size": limits.block_size,
        "num_kv_heads": 1,
        "head_size": 1,
        "dtype": torch.float32,
    }
    layers: list[Any] = [SlidingWindowSpec(**shape, sliding_window=window) for window in limits.windows]
    layers.append(FullAttentionSpec(**shape))
    scheduler = cls(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=limits.num_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec([f"layer {i}"], layer) for i, layer in enumerate(layers)],
        ),
        block_size=limits.block_size,
        log_stats=False,
        structured_output_manager=StructuredOutputManager(config),
    )
    scheduler.use_v2_model_runner = limits.pipeline > 1 and limits.steps_in_flight > 1  # the other can't
    scheduler.max_num_encoder_input_tokens = limits.images
    scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=limits.images)
    return scheduler


def guessing(count: int) -> Any:
    """What vLLM is told of speculation; nothing where there is none."""
    if not count:
        return None
    return SpeculativeConfig(method="ngram", num_speculative_tokens=count, prompt_lookup_max=2)


def hasher(limits: Limits) -> Any:
    """What tells vLLM which blocks are alike; None without prefix caching."""
    return get_request_block_hasher(limits.block_size, sha256) if limits.prefix_caching else None


def make_request(
    request_id: str,
    prompt_token_ids: list[int],
    max_tokens: int,
    block_hasher: Any,
    *,
    priority: int = 0,
    adapter: int = 0,
    images: Sequence[tuple[str, int, int]] = (),
    **extra_args: Any,
) -> Request:
    """A greedy request for exactly `max_tokens` tokens; `extra_args` are Brim's facts.

    `images` are name, first token and number of tokens of each.
    """
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        sampling_params=SamplingParams(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, extra_args=extra_args or None
        ),
        pooling_params=None,
        priority=priority,
        block_hasher=block_hasher,
        lora_request=LoRARequest(f"adapter {adapter}", adapter, "nowhere") if adapter else None,
        mm_features=[
            MultiModalFeatureSpec(None, "image", name, PlaceholderRange(first, count))
            for name, first, count in images
        ],
    )


class Driver:
    """A scheduler, a worker without a model, and what came out so far. With a `clock` steps take its time."""

    def __init__(self, cls: Any, limits: Limits, clock: ToldClock | None = None) -> None:
        self.limits = limits
        self.clock = clock
        self.scheduler = make_scheduler(cls, limits)
        self.worker = Worker(limits.block_size, [*limits.windows, None], limits.guesses)
        self.asked: dict[str, Request] = {}
        self.tokens: dict[str, list[int]] = {}
        self.finish_reasons: dict[str, str] = {}  # of requests that ended by themselves
        self.aborted: set[str] = set()
        self.steps = self.idle_steps = 0
        self._hasher = hasher(limits)
        self._in_flight: deque[tuple[Any, Any]] = deque()

    def add(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        max_tokens: int,
        *,
        grammar: tuple[float, ...] = (),
        **more: Any,
    ) -> None:
        """Gives the scheduler a request; see `make_request`, and `follows_grammar` for `grammar`."""
        request = make_request(request_id, prompt_token_ids, max_tokens, self._hasher, **more)
        if grammar:
            follows_grammar(request, *grammar)
        self.asked[request_id], self.tokens[request_id] = request, []
        self.scheduler.add_request(request)

    def abort(self, request_id: str) -> None:
        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
        self.aborted.add(request_id)

    def step(self) -> None:
        """One turn of `EngineCore`: a batch is scheduled, and the oldest one in flight is taken in.

        Raises `AssertionError` when the scheduler did what must never be.
        """
        executed = False
        if self.scheduler.has_requests():
            scheduled = self.scheduler.schedule()
            self.steps += 1
            self._look_at(scheduled)
            self._in_flight.append((scheduled, self.worker.execute(scheduled)))
            executed = scheduled.total_num_scheduled_tokens > 0
            full = len(self._in_flight) == self.limits.steps_in_flight + self.limits.pipeline - 1
            if not full and (executed or self.scheduler.has_requests()):
                return
        if self._in_flight:
            oldest = self._in_flight.popleft()
            if self.clock is not None:
                self.clock.passes(oldest[0].total_num_scheduled_tokens)
            self._take_in(self.scheduler.update_from_output(*oldest))
            if self.limits.guesses and self.limits.steps_in_flight == 1:
                self.scheduler.update_draft_token_ids(self.worker.drafts())

    def drain(self) -> None:
        """Steps until nothing is left, and looks whether everything was given back."""
        while self.scheduler.has_requests() or self._in_flight:
            self.step()
        check(self.scheduler)
        check_empty(self.scheduler)

    @property
    def preemptions(self) -> int:
        return sum(request.num_preemptions for request in self.asked.values())

    @property
    def unfinished(self) -> list[str]:
        """Ids of requests that neither ended nor were aborted."""
        return [name for name in self.asked if name not in self.finish_reasons and name not in self.aborted]

    def _look_at(self, scheduled: Any) -> None:
        counts = scheduled.num_scheduled_tokens
        assert len(counts) <= self.limits.max_num_seqs
        assert scheduled.total_num_scheduled_tokens == sum(counts.values())
        assert scheduled.total_num_scheduled_tokens <= self.limits.max_num_batched_tokens
        assert all(count > 0 for count in counts.values())
        waits = self.scheduler.has_unfinished_requests() and not counts
        self.idle_steps = self.idle_steps + 1 if waits else 0
        assert self.idle_steps < PATIENCE_STEPS, f"stuck: {sorted(self.scheduler.requests)}"

    def _take_in(self, outputs: Any) -> None:
        for answers in outputs.values():
            for answer in answers.outputs:
                assert answer.request_id not in self.finish_reasons, f"{answer.request_id} had ended"
                self.tokens[answer.request_id].extend(answer.new_token_ids)
                if answer.finish_reason is not None:
                    self.finish_reasons[answer.request_id] = str(answer.finish_reason)
        check(self.scheduler)


def check(scheduler: Any) -> None:
    """Every block is free or held by as many as say they hold it; every request is in one place.

    Raises `AssertionError` otherwise. A class with a `brim_check()` is asked for its own opinion, too.
    """
    pool = scheduler.kv_cache_manager.block_pool
    tables = [
        manager.req_to_blocks for manager in scheduler.kv_cache_manager.coordinator.single_type_managers
    ]
    holders = Counter(block.block_id for table in tables for row in table.values() for block in row)
    holders += Counter(block.block_id for _, blocks in scheduler.deferred_frees for block in blocks)
    null = pool.null_block.block_id
    del holders[null]  # stands in for what a window has left behind
    counted = Counter({b.block_id: b.ref_cnt for b in pool.blocks if b.ref_cnt and b.block_id != null})
    assert counted == holders, f"blocks held and counted differ: {counted - holders} {holders - counted}"
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1 - len(holders), "free blocks are missing"
    places = Counter(
        request.request_id
        for queue in (scheduler.running, scheduler.waiting, scheduler.kv_holding_waiting)
        for request in queue
    )
    assert set(places.values()) <= {1}, "a request stands in two queues"
    unfinished = {name for name, request in scheduler.requests.items() if not request.is_finished()}
    assert places.keys() == unfinished, f"in no queue: {unfinished - places.keys()}"
    if hasattr(scheduler, "brim_check"):
        scheduler.brim_check()


def check_empty(scheduler: Any) -> None:
    """Nothing is left behind: no request, no block."""
    pool = scheduler.kv_cache_manager.block_pool
    assert not scheduler.requests, "requests are left"
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1, "blocks are left"
