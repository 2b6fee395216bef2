"""From settings to a running service: engine, scheduler, loop and protocol, put together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brim.cli.settings import EngineSettings
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.policies.named import refuse_unknown
from brim.core.scheduler import Scheduler
from brim.engines.base import EngineCaps
from brim.engines.loop import EngineLoop
from brim.server.options import ServiceOptions
from brim.server.service import OpenAIService


@dataclass(frozen=True, slots=True)
class Host:
    """A model ready to answer. `capacity_tokens` is the size of its KV cache."""

    caps: EngineCaps
    service: OpenAIService
    capacity_tokens: int


@contextmanager
def running(settings: EngineSettings, options: ServiceOptions, tell: Callable[[str], None]) -> Iterator[Host]:
    """Loads the model and runs its engine loop until the block ends. Raises ConfigError or ModelRefused."""
    _check_limits(settings)
    try:
        import torch

        from brim.engines.local.load import load
    except ImportError as exc:
        raise ConfigError(f'the local engine needs more packages ({exc}): pip install "brim[local]"') from exc
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    engine, tokenizer = load(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        num_blocks=_num_blocks(settings),
        block_size=settings.block_size,
        max_model_len=settings.max_model_len,
        seed=settings.seed,
        cache_dir=cache_folder(),
        progress=tell,
    )
    caps = engine.caps
    loop = EngineLoop(engine, Scheduler(scheduler_config(settings, caps)))
    loop.start()
    try:
        yield Host(caps, OpenAIService(loop, tokenizer, options), caps.num_blocks * caps.block_size)
    finally:
        loop.close()


def scheduler_config(settings: EngineSettings, caps: EngineCaps) -> SchedulerConfig:
    """The scheduler that fits the engine."""
    return SchedulerConfig(
        num_blocks=caps.num_blocks,
        block_size=caps.block_size,
        max_model_len=caps.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_prefill_chunk_tokens=settings.max_prefill_chunk_tokens,
        enable_prefix_caching=settings.enable_prefix_caching,
        policy=settings.policy,
    )


def _check_limits(settings: EngineSettings) -> None:
    """Raises ConfigError for what can be seen to be wrong before minutes of loading."""
    refuse_unknown(settings.policy)
    SchedulerConfig(
        num_blocks=_num_blocks(settings) or sys.maxsize,
        block_size=settings.block_size,
        max_model_len=settings.max_model_len or 1,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
    )


def cache_folder() -> Path:
    """Where the built-in model is kept between starts."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "brim"


def _num_blocks(settings: EngineSettings) -> int | None:
    if settings.kv_tokens is None:
        return None
    if settings.kv_tokens < settings.block_size:
        raise ConfigError(f"kv_tokens = {settings.kv_tokens} is less than one block of {settings.block_size}")
    return settings.kv_tokens // settings.block_size
