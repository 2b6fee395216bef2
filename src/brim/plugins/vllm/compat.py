"""Every name of vLLM that the plug-in touches beyond `super()`, and where Brim's rules do not apply.

Seen in 0.31 to 0.33. vLLM declares none of it public, so all of it is looked for at start: where a name is
gone or a feature is on whose interplay is not tested, Brim leaves vLLM as it is and says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue
from vllm.v1.core.kv_cache_utils import get_block_hash as content_of
from vllm.v1.core.kv_cache_utils import get_group_id as group_of
from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id as content_key
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, create_request_queue
from vllm.v1.core.single_type_kv_cache_manager import (
    ChunkedLocalAttentionManager,
    FullAttentionManager,
    SlidingWindowManager,
)
from vllm.v1.request import Request, RequestStatus

__all__ = [  # what others take from vLLM through this file, beside what is defined here
    "AsyncScheduler",
    "FreeKVCacheBlockQueue",
    "Request",
    "RequestQueue",
    "RequestStatus",
    "content_key",  # the name of a block's content in vLLM's index, for one group of layers
    "content_of",  # and what it was made of
    "create_request_queue",
    "group_of",
]

TESTED = ((0, 31), (0, 33))  # minor releases, the first and the last
SCHEDULER = (  # methods overridden or called, attributes read or set
    "schedule",
    "update_from_output",
    "add_request",
    "finish_requests",
    "reset_prefix_cache",
    "_preempt_request",
    "_free_request",
    "_reserve_prefill_lookahead",
    "_is_blocked_waiting_status",
    "_handle_blocked_waiting_request",
    "requests",
    "waiting",
    "kv_holding_waiting",
    "deferred_waiting",
    "_inflight_prefills",
    "running",
    "finished_req_ids",
    "prev_step_scheduled_req_ids",
    "max_num_scheduled_tokens",
    "max_num_active_reqs",
    "kv_cache_manager",
    "policy",
    "pause_state",
    "connector",
    "ec_connector",
    "hash_block_size",
)
KINDS = (FullAttentionManager, SlidingWindowManager, ChunkedLocalAttentionManager)
POOL = (
    "blocks",
    "num_gpu_blocks",
    "free_block_queue",
    "cached_block_hash_to_block",
    "cache_full_blocks",
    "touch",
    "free_blocks",
    "get_num_free_blocks",
    "_maybe_evict_cached_block",
)


def table_group(managers: Sequence[Any]) -> int:
    """Which of the groups of layers attends to everything. Raises ValueError where none does."""
    return [type(manager) for manager in managers].index(FullAttentionManager)


def kept_tokens(manager: Any) -> int | None:
    """Of how many tokens a group of layers keeps a request's blocks; None: of all."""
    spec = manager.kv_cache_spec
    if isinstance(manager, SlidingWindowManager):
        return int(spec.sliding_window)
    return int(spec.attention_chunk_size) if isinstance(manager, ChunkedLocalAttentionManager) else None


def own_order(scheduler: Any, groups: Any) -> str | None:
    """Why vLLM evicts by its own order; None where a rule of Brim's may take its place."""
    if groups.several:
        return "layers of several kinds share the KV cache"  # the windows' blocks would be first to go
    connector = scheduler.connector
    if (
        connector is not None
        and type(connector).bind_gpu_block_pool is not KVConnectorBase_V1.bind_gpu_block_pool
    ):
        return f"{type(connector).__name__} may look into its free blocks"
    return None


def adapter(request: Request) -> int:
    """Of which LoRA adapter it is; 0 without one."""
    return 0 if request.lora_request is None else int(request.lora_request.lora_int_id)


def paused(scheduler: Any) -> bool:
    """Whether an operator holds requests back (sleep, new weights)."""
    return bool(getattr(scheduler.pause_state, "value", 0))


def untested_version() -> str | None:
    release = tuple(int(part) for part in vllm.__version__.split(".")[:2] if part.isdigit())
    if TESTED[0] <= release <= TESTED[1]:
        return None
    first, last = (".".join(map(str, release)) for release in TESTED)
    return f"vLLM {vllm.__version__} is outside the tested range {first} to {last}"


def reasons_against(scheduler: Any) -> list[str]:
    """Why Brim's rules can't apply to this engine; empty where they can."""
    untested = untested_version()
    return [*([untested] if untested else []), *_missing_names(scheduler), *_untested_features(scheduler)]


def _missing_names(scheduler: Any) -> Iterator[str]:
    pool = getattr(getattr(scheduler, "kv_cache_manager", None), "block_pool", None)
    gone = [name for name in SCHEDULER if not hasattr(scheduler, name)]
    gone += [f"block_pool.{name}" for name in POOL if not hasattr(pool, name)]
    if gone:
        yield f"vLLM {vllm.__version__} has no {', '.join(gone)}"
        return
    lever = inspect.signature(AsyncScheduler._reserve_prefill_lookahead)
    if list(lever.parameters) != ["self", "request", "num_computed_tokens", "num_new_tokens"]:
        yield f"_reserve_prefill_lookahead of vLLM {vllm.__version__} has other parameters"


def _untested_features(scheduler: Any) -> Iterator[str]:
    config, managers = scheduler.vllm_config, scheduler.kv_cache_manager.coordinator.single_type_managers
    parallel, guesses = config.parallel_config, config.speculative_config is not None
    kinds = [type(manager) for manager in managers]
    unknown = {kind.__name__ for kind in kinds if kind not in KINDS}
    table = [manager for manager in managers if type(manager) is FullAttentionManager][:1]
    capacity = (scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1) * sum(m.block_size for m in table)
    features = {
        "speculative decoding in a pipeline": guesses and parallel.pipeline_parallel_size > 1,
        "speculative decoding with layers of several kinds": guesses and len(managers) > 1,
        "a pipeline without asynchronous scheduling": parallel.pipeline_parallel_size > 1
        and not scheduler.scheduler_config.async_scheduling,
        "context parallelism": parallel.decode_context_parallel_size > 1,
        "a KV connector beside layers of several kinds": scheduler.connector is not None
        and len(managers) > 1,
        "a KV connector without prefix caching": scheduler.connector is not None
        and not scheduler.cache_config.enable_prefix_caching,
        "an encoder-cache connector": scheduler.ec_connector is not None,
        "external_launcher: several schedulers that must decide alike": parallel.distributed_executor_backend
        == "external_launcher",
        "an encoder-decoder model": scheduler.is_encoder_decoder,
        "a pooling model": config.model_config.runner_type == "pooling",
        "chunked prefill off": not scheduler.scheduler_config.enable_chunked_prefill,
        f"a KV cache kept by {', '.join(sorted(unknown))}": unknown,
        "no layer that attends to the whole context": not table,
        f"a KV cache of {capacity} tokens, less than max_model_len": table
        and capacity < scheduler.max_model_len,
    }
    yield from (name for name, there in features.items() if there)


def rules_off(scheduler: Any, groups: Any) -> list[str]:
    """Which of Brim's rules don't apply to this engine, and why; all others do."""
    off = []
    if scheduler.hash_block_size != groups.block_size:
        off.append("what is cached is not known in advance: block hashes have another size than blocks")
    elif reason := own_order(scheduler, groups):
        off.append(f"vLLM evicts by its own order: {reason}")
    return off


def reasons_against_request(request: Request) -> str | None:
    """Why Brim's rules can't apply while this request is here."""
    if request.pooling_params is not None:
        return "a pooling request"
    if request.resumable:
        return "a prompt that comes in pieces"
    return None
