"""vLLM's scheduler and block pool as a host of Brim's: what it is asked, and what changes in it meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from brim.core.hosted import HostedScheduler
from brim.core.kvcache.eviction import Eviction
from brim.core.kvcache.prefix_index import CacheObserver
from brim.core.request import SLO, FinishReason
from brim.plugins.vllm import views
from brim.plugins.vllm.compat import (
    FreeKVCacheBlockQueue,
    Request,
    RequestStatus,
    content_key,
    content_of,
    create_request_queue,
    group_of,
    own_order,
)
from brim.plugins.vllm.elsewhere import Elsewhere
from brim.plugins.vllm.free_blocks import FreeBlocks
from brim.plugins.vllm.gate import GatedQueue
from brim.plugins.vllm.groups import Groups
from brim.plugins.vllm.not_now import Adapters, Blocked, NotNow

logger = logging.getLogger(__name__)

QUEUES = "waiting", "kv_holding_waiting"  # the second: requests whose KV was loaded before they run


class VllmHost:
    """`brim.plugins.hosting.Engine` over vLLM's scheduler."""

    def __init__(self, scheduler: Any) -> None:
        self.groups = groups = Groups(scheduler)
        self.beside = groups.beside
        self.drafts: Mapping[str, Sequence[int]] = {}  # guesses among the tokens of the step taken in
        self._slo = SLO()
        self.ordered: Sequence[str] = ()  # whom vLLM is to let in, in the coming step
        self._failed: list[str] = []  # requests that vLLM ended in error
        self._given_way: set[str] = set()  # preempted by vLLM of its own accord
        self._obeying = False  # whether vLLM preempts on our behalf
        self._scheduler = scheduler
        self._pool = scheduler.kv_cache_manager.block_pool
        self._free: FreeBlocks | None = None
        self._failure: Exception | None = None  # of Brim, inside vLLM's own work
        self._nobody_aside()

    def _nobody_aside(self) -> None:
        self._not_now = not_now = NotNow()
        self._blocked = Blocked(self._scheduler, not_now)
        self._elsewhere = Elsewhere(self._scheduler, not_now)
        self.adapters = Adapters(self._scheduler, not_now)

    @property
    def gpus(self) -> int:
        """Of one engine: each of several in data parallel has a scheduler of its own."""
        return int(self._scheduler.vllm_config.parallel_config.world_size)

    # ---- blocks ----------------------------------------------------------------------------------------

    @property
    def num_blocks(self) -> int:
        return self.groups.num_blocks

    @property
    def free_blocks(self) -> int:
        return self.groups.free_blocks

    def wanted_among(self, count: int) -> int:
        return 0 if self._free is None else self._free.wanted_among(count)

    def table(self, request_id: str, start: int) -> Sequence[int]:
        blocks = self.groups.tables.get(request_id, ())
        return [block.block_id for block in blocks[start:]]

    def ref_count(self, block_id: int) -> int:
        return self._pool.blocks[block_id].ref_cnt

    def find(self, block_hash: Any) -> int | None:
        key = content_key(block_hash, self.groups.number)
        block = self._pool.cached_block_hash_to_block.get_one_block(key)
        return None if block is None else block.block_id

    def hashes(self, request_id: str, start: int) -> Sequence[Any]:
        request = self._scheduler.requests[request_id]
        hashed = self._scheduler.hash_block_size == self.groups.block_size
        return request.block_hashes[start:] if hashed and not request.skip_reading_prefix_cache else ()

    def token_ids(self, request_id: str) -> list[int]:
        return self._scheduler.requests[request_id]._all_token_ids

    def num_computed_tokens(self, request_id: str) -> int:
        computed: int = self._scheduler.requests[request_id].num_computed_tokens
        return computed - len(self.drafts.get(request_id, ()))

    def preempt(self, request_id: str) -> None:
        scheduler = self._scheduler
        request = scheduler.requests.get(request_id)
        if request is None or request.status != RequestStatus.RUNNING:
            return
        scheduler.running.remove(request)
        scheduler.prev_step_scheduled_req_ids.discard(request_id)
        self._obeying = True
        try:
            # its token in flight is drawn again: it may be let in again at once
            scheduler._preempt_request(request, time.monotonic(), drop_stale_output=True)
        finally:
            self._obeying = False

    def keep(self, block_id: int) -> None:
        self._pool.touch([self._pool.blocks[block_id]])

    def let_go(self, block_ids: Sequence[int]) -> None:
        self._pool.free_blocks([self._pool.blocks[block_id] for block_id in block_ids])

    def mark_online(self, block_ids: Iterable[int]) -> None:
        if self._free is not None:
            self._free.online.update(block_ids)

    # ---- requests --------------------------------------------------------------------------------------

    def tell(self, brim: HostedScheduler, request: Request) -> None:
        """Of a request that waits."""
        facts = views.facts(request, self._scheduler.max_model_len, self._slo)
        brim.add(facts, time.monotonic_ns())
        self._blocked.look_at(brim, request)
        self.adapters.told(request)

    def tell_unblocked(self, brim: HostedScheduler) -> None:
        """Before a step: who may enter now, and who may not."""
        self._elsewhere.bring_back(brim)
        self._blocked.bring_back(brim)
        self.adapters.look(brim)

    def waiting(self) -> Iterator[str]:
        """All that vLLM could let in."""
        for queue in QUEUES:
            for request in getattr(self._scheduler, queue):
                if request.request_id not in self._blocked:
                    yield request.request_id

    def step_taken(self, brim: HostedScheduler) -> None:
        """vLLM has scheduled a step, and was to let in who was `ordered`. Raises what failed meanwhile."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        ordered, self.ordered = self.ordered, ()
        self._elsewhere.set_aside(brim, ordered, self._blocked)

    def failed(self, exc: Exception) -> None:
        """Of Brim, in the middle of vLLM's own work, which goes on: it is raised when that is done."""
        self._failure = self._failure or exc

    def over(self, request: Request) -> None:
        """vLLM is done with it."""
        for keeper in (self._blocked, self._elsewhere, self.adapters, self._not_now):
            keeper.forget(request.request_id)
        if request.status == RequestStatus.FINISHED_ERROR:
            self._failed.append(request.request_id)

    def tell_failed(self, brim: HostedScheduler) -> None:
        """Of those that vLLM ended in error; else they would count as aborted, or as ended well."""
        failed, self._failed = self._failed, []
        for request_id in failed:
            brim.abort(request_id, time.monotonic_ns(), FinishReason.ERROR)

    def preempted(self, request_id: str) -> None:
        """vLLM has preempted it."""
        if not self._obeying:
            self._given_way.add(request_id)

    def given_way(self) -> set[str]:
        """Whom vLLM preempted of its own accord since the last call."""
        given_way, self._given_way = self._given_way, set()
        return given_way

    # ---- Brim comes and goes ---------------------------------------------------------------------------

    def limits(self) -> dict[str, Any]:
        scheduler = self._scheduler
        return {
            "num_blocks": self.groups.most_blocks,
            "block_size": self.groups.block_size,
            "max_model_len": scheduler.max_model_len,
            "max_num_seqs": min(scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens),
            "max_num_batched_tokens": scheduler.max_num_scheduled_tokens,
            "max_prefill_chunk_tokens": scheduler.scheduler_config.long_prefill_token_threshold,
            "enable_prefix_caching": scheduler.cache_config.enable_prefix_caching,
        }

    def engage(self, brim: HostedScheduler, slo: SLO, *, active: bool) -> None:
        scheduler, self._slo = self._scheduler, slo
        queued = [*scheduler.kv_holding_waiting, *scheduler.waiting]
        if brim.observer is not None and scheduler.hash_block_size == self.groups.block_size:
            self._observe(brim.observer)
            if active:
                self._steer(brim.kv.eviction, brim.observer)
        if active:
            for queue in QUEUES:
                setattr(scheduler, queue, GatedQueue(getattr(scheduler, queue)))
        now_ns = time.monotonic_ns()
        for request in scheduler.running:
            brim.adopt(views.facts(request, scheduler.max_model_len, slo), now_ns)
        for request in queued:
            self.tell(brim, request)

    def disengage(self) -> None:
        scheduler, self._given_way, self._failed = self._scheduler, set(), []
        if self._failure is not None:
            logger.error("Brim failed in the last step that it took part in", exc_info=self._failure)
            self._failure = None
        self.ordered = ()
        self._nobody_aside()
        for queue in QUEUES:
            gated = getattr(scheduler, queue)
            if isinstance(gated, GatedQueue):
                setattr(scheduler, queue, gated.poured_into(create_request_queue(scheduler.policy)))
        for name in ("cache_full_blocks", "_maybe_evict_cached_block"):
            vars(self._pool).pop(name, None)
        if self._free is not None:
            self._pool.free_block_queue = FreeKVCacheBlockQueue(self._free.get_all_free_blocks())
            self._free = None

    def _steer(self, eviction: Eviction, observer: CacheObserver) -> None:
        """From now on a rule that knows who waits for what says who is evicted."""
        if eviction.by_class and not own_order(self._scheduler, self.groups):
            free = self._pool.free_block_queue.get_all_free_blocks()
            self._free = FreeBlocks(eviction, observer.known, free, len(self._pool.blocks), self.failed)
            self._pool.free_block_queue = self._free

    def _observe(self, observer: CacheObserver) -> None:
        """From now on the observer is told what is cached.

        What was cached before stays unknown: vLLM does not tell which blocks follow one another.
        """
        pool, known, cached = self._pool, observer.known, self._pool.cached_block_hash_to_block
        group, several = self.groups.number, self.groups.several
        cache, evict = pool.cache_full_blocks, pool._maybe_evict_cached_block

        def cache_full_blocks(
            request: Request, blocks: Any, num_cached_blocks: int, num_full_blocks: int, **more: Any
        ) -> None:
            first, last = num_cached_blocks, num_full_blocks
            cache(request, blocks, num_cached_blocks=first, num_full_blocks=last, **more)
            if last > first and more["kv_cache_group_id"] == group:
                try:
                    observer.published(request.block_hashes, first, last)
                except Exception as exc:
                    self.failed(exc)

        def maybe_evict(block: Any) -> bool:
            key, done = block.block_hash, bool(evict(block))
            if done and not (several and group_of(key) != group):
                content = content_of(key)
                if content in known and cached.get_one_block(key) is None:
                    try:
                        observer.evicted(content)
                    except Exception as exc:
                        self.failed(exc)
            return done

        pool.cache_full_blocks, pool._maybe_evict_cached_block = cache_full_blocks, maybe_evict
