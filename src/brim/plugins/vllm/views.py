"""vLLM as Brim sees it: requests as facts, its block pool as a host's, its queue with a gate."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from brim.core.errors import ConfigError
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.prefix_index import CacheObserver
from brim.core.request import SLO, SamplingParams, TaskClass
from brim.core.request import Request as Facts
from brim.plugins.vllm.compat import (
    FreeKVCacheBlockQueue,
    Request,
    RequestQueue,
    RequestStatus,
    content_key,
    content_of,
)
from brim.plugins.vllm.free_blocks import FreeBlocks
from brim.plugins.vllm.settings import slo_of

logger = logging.getLogger(__name__)
TOLD = frozenset({"task_class", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "deadline_ms"})


def extra_args(request: Request) -> dict[str, Any]:
    """What the client said beside OpenAI's fields (`vllm_xargs`)."""
    params = request.sampling_params
    return (params.extra_args if params is not None else None) or {}


def says_something(request: Request) -> bool:
    """Whether it brings a class or a target."""
    return not TOLD.isdisjoint(extra_args(request))


def facts(request: Request, max_model_len: int, default: SLO) -> Facts:
    """What a client says that makes no sense is left out, and logged: here nobody is left to tell it."""
    arrival_ns = time.monotonic_ns() - round((time.time() - request.arrival_time) * 1e9)
    try:
        task_class, slo, deadline_ns = _told(extra_args(request), arrival_ns)
    except ConfigError as exc:
        logger.warning("request %s is online without targets: %s", request.request_id, exc)
        task_class, slo, deadline_ns = TaskClass.ONLINE, SLO(), None
    told, room = extra_args(request), max_model_len - request.num_prompt_tokens
    return Facts(
        request.request_id,
        request.prompt_token_ids or (),
        SamplingParams(max_tokens=max(min(request.max_tokens, room), 1)),
        task_class,
        arrival_ns,
        request.priority,
        deadline_ns,
        default if slo == SLO() and task_class is TaskClass.ONLINE else slo,
        length_keys=tuple(f"{name}:{told[name]}" for name in ("batch_id", "tenant") if told.get(name)),
    )


def _told(told: Mapping[str, Any], arrival_ns: int) -> tuple[TaskClass, SLO, int | None]:
    try:
        task_class = TaskClass(told.get("task_class", "online"))
        deadline_ms = told.get("deadline_ms")
        deadline_ns = None if deadline_ms is None else arrival_ns + round(float(deadline_ms) * 1e6)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ConfigError(f"task_class is online or offline, deadline_ms a number: {exc}") from None
    return task_class, slo_of(told), deadline_ns


class GatedQueue(RequestQueue):
    """All who wait; vLLM sees those whom a decision lets in, in its order, and nobody else."""

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._all = {request.request_id: request for request in requests}
        self._let_in: deque[Request] = deque()

    def let_in(self, request_ids: Iterable[str]) -> None:
        """In the coming step."""
        self._let_in = deque(self._all[request_id] for request_id in request_ids if request_id in self._all)

    def add_request(self, request: Request) -> None:
        self._all[request.request_id] = request

    def prepend_request(self, request: Request) -> None:
        self._all[request.request_id] = request

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        self._all.update((request.request_id, request) for request in requests)

    def pop_request(self) -> Request:
        request = self._let_in.popleft()
        del self._all[request.request_id]
        return request

    def peek_request(self) -> Request:
        return self._let_in[0]

    def remove_request(self, request: Request) -> None:
        self._all.pop(request.request_id, None)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.remove_request(request)

    def __bool__(self) -> bool:
        return bool(self._let_in)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._all.values()))


class VllmHost:
    """`brim.core.kvcache.hosted.Host` over vLLM's scheduler."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._pool = scheduler.kv_cache_manager.block_pool
        self._tables = scheduler.kv_cache_manager.coordinator.single_type_managers[0].req_to_blocks
        self._free: FreeBlocks | None = None
        self._known: set[bytes] = set()  # contents of which the offline pool was told
        self.obeying = False  # whether vLLM preempts on our behalf

    @property
    def num_blocks(self) -> int:
        return self._pool.num_gpu_blocks - 1  # one is vLLM's own placeholder

    @property
    def free_blocks(self) -> int:
        return self._pool.get_num_free_blocks()

    def wanted_among(self, count: int) -> int:
        return 0 if self._free is None else self._free.wanted_among(count)

    def table(self, request_id: str, start: int) -> Sequence[int]:
        blocks = self._tables.get(request_id, ())
        return [block.block_id for block in blocks[start:]]

    def ref_count(self, block_id: int) -> int:
        return self._pool.blocks[block_id].ref_cnt

    def find(self, block_hash: Any) -> int | None:
        block = self._pool.cached_block_hash_to_block.get_one_block(content_key(block_hash))
        return None if block is None else block.block_id

    def hashes(self, request_id: str, start: int) -> Sequence[Any]:
        request = self._scheduler.requests[request_id]
        return () if request.skip_reading_prefix_cache else request.block_hashes[start:]

    def token_ids(self, request_id: str) -> list[int]:
        return self._scheduler.requests[request_id]._all_token_ids

    def num_computed_tokens(self, request_id: str) -> int:
        return self._scheduler.requests[request_id].num_computed_tokens

    def preempt(self, request_id: str) -> None:
        scheduler = self._scheduler
        request = scheduler.requests.get(request_id)
        if request is None or request.status != RequestStatus.RUNNING:
            return
        scheduler.running.remove(request)
        scheduler.prev_step_scheduled_req_ids.discard(request_id)
        self.obeying = True
        try:
            # its token in flight is drawn again: it may be let in again at once
            scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
        finally:
            self.obeying = False

    def keep(self, block_id: int) -> None:
        self._pool.touch([self._pool.blocks[block_id]])

    def let_go(self, block_ids: Sequence[int]) -> None:
        self._pool.free_blocks([self._pool.blocks[block_id] for block_id in block_ids])

    def mark_online(self, block_ids: Iterable[int]) -> None:
        if self._free is not None:
            self._free.online.update(block_ids)

    def engage(self, eviction: Eviction, observer: CacheObserver | None) -> None:
        """From now on the observer is told what is cached, and a rule that needs that says who is evicted."""
        if observer is not None:
            self._observe(observer)
        if observer is not None and eviction.by_class:
            self._free = FreeBlocks(eviction, self._known, self._pool.free_block_queue.get_all_free_blocks())
            self._pool.free_block_queue = self._free

    def _observe(self, observer: CacheObserver) -> None:
        """What was cached before stays unknown: vLLM does not tell which blocks follow one another."""
        pool, known, cached = self._pool, self._known, self._pool.cached_block_hash_to_block
        cache, evict = pool.cache_full_blocks, pool._maybe_evict_cached_block

        def cache_full_blocks(
            request: Request, blocks: Any, num_cached_blocks: int, num_full_blocks: int, **more: Any
        ) -> None:
            first, last = num_cached_blocks, num_full_blocks
            cache(request, blocks, num_cached_blocks=first, num_full_blocks=last, **more)
            if last > first:
                chain = request.block_hashes[:last]
                observer.published(chain, first, last)
                known.update(chain[first:])

        def maybe_evict(block: Any) -> bool:
            key, done = block.block_hash, evict(block)
            if done and content_of(key) in known and cached.get_one_block(key) is None:
                known.discard(content_of(key))
                observer.evicted(content_of(key))
            return bool(done)

        pool.cache_full_blocks, pool._maybe_evict_cached_block = cache_full_blocks, maybe_evict

    def disengage(self) -> None:
        """The pool is vLLM's own again."""
        for name in ("cache_full_blocks", "_maybe_evict_cached_block"):
            vars(self._pool).pop(name, None)
        self._known.clear()
        if self._free is not None:
            self._pool.free_block_queue = FreeKVCacheBlockQueue(self._free.get_all_free_blocks())
            self._free = None
