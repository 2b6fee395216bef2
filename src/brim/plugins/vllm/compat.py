"""Every name of vLLM that the plug-in touches beyond `super()`, and where Brim's rules do not apply.

Seen in 0.31 to 0.33. vLLM declares none of it public, so all of it is looked for at start: where a name is
gone or a feature is on whose interplay is not tested, Brim leaves vLLM as it is and says why.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import vllm
from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue, get_block_hash, make_block_hash_with_group_id
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, create_request_queue
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus

__all__ = [
    "AsyncScheduler",
    "FreeKVCacheBlockQueue",
    "Request",
    "RequestQueue",
    "RequestStatus",
    "content_key",
    "content_of",
    "create_request_queue",
    "paused",
    "reasons_against",
    "reasons_against_request",
]

TESTED = ((0, 31), (0, 33))  # minor releases, the first and the last
SCHEDULER = (  # methods overridden or called, attributes read or set
    "schedule",
    "update_from_output",
    "add_request",
    "finish_requests",
    "reset_prefix_cache",
    "_preempt_request",
    "_reserve_prefill_lookahead",
    "_is_blocked_waiting_status",
    "_handle_blocked_waiting_request",
    "requests",
    "waiting",
    "kv_holding_waiting",
    "running",
    "finished_req_ids",
    "prev_step_scheduled_req_ids",
    "max_num_scheduled_tokens",
    "max_num_active_reqs",
    "kv_cache_manager",
    "policy",
    "pause_state",
)
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


def content_key(block_hash: bytes) -> Any:
    """The name of a block's content in vLLM's index, for the one group of layers there is."""
    return make_block_hash_with_group_id(block_hash, 0)


def content_of(key: Any) -> bytes:
    return get_block_hash(key)


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
    config = scheduler.vllm_config
    parallel, groups = config.parallel_config, scheduler.kv_cache_config.kv_cache_groups
    capacity = (scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1) * scheduler.block_size
    features = {
        "speculative decoding": config.speculative_config is not None,
        "a KV connector": scheduler.connector is not None,
        "an encoder-cache connector": getattr(scheduler, "ec_connector", None) is not None,
        "LoRA adapters": scheduler.lora_config is not None,
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "context parallelism": parallel.decode_context_parallel_size > 1,
        "an encoder-decoder model": scheduler.is_encoder_decoder,
        "a pooling model": config.model_config.runner_type == "pooling",
        "chunked prefill off": not scheduler.scheduler_config.enable_chunked_prefill,
        "layers of several kinds in the KV cache": len(groups) != 1
        or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
        or bool(groups[0].kv_cache_spec.sliding_window),
        "block hashes of another size than blocks": scheduler.hash_block_size != scheduler.block_size,
        f"a KV cache of {capacity} tokens, less than max_model_len": capacity < scheduler.max_model_len,
    }
    yield from (name for name, there in features.items() if there)


def reasons_against_request(request: Request) -> str | None:
    """Why Brim's rules can't apply while this request is here."""
    if request.pooling_params is not None:
        return "a pooling request"
    if request.prompt_token_ids is None:
        return "a prompt of embeddings"
    if request.resumable:
        return "a prompt that comes in pieces"
    if request.has_encoder_inputs:
        return "images or sound in a prompt"
    return None
