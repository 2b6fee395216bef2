"""From settings to a running service: engine, scheduler, loop and protocol, put together."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brim.cli.settings import EngineSettings, ModelSettings
from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError, MissingPackages
from brim.core.estimators.learned_length import Learned, LengthModel
from brim.core.estimators.length_error import Measured
from brim.core.estimators.response_length import AtMost, History, ResponseLength
from brim.core.policies.named import named, refuse_unknown
from brim.core.scheduler import Scheduler
from brim.engines.base import EngineCaps
from brim.engines.loop import EngineLoop
from brim.profiles.loader import load as load_profile
from brim.server.length_log import recording
from brim.server.options import ServiceOptions
from brim.server.service import OpenAIService

if TYPE_CHECKING:
    from brim.engines.local.engine import LocalEngine
    from brim.engines.local.tokenizer import HFTokenizer

PREDICTORS: dict[str, Callable[[], ResponseLength]] = {"history": History, "limit": AtMost}


@dataclass(frozen=True, slots=True)
class Host:
    """A model ready to answer. `capacity_tokens` is the size of its KV cache.

    `keeps_targets`: its policy gives offline requests only the time that online targets leave.
    """

    caps: EngineCaps
    service: OpenAIService
    capacity_tokens: int
    keeps_targets: bool


@contextmanager
def running(settings: EngineSettings, options: ServiceOptions, tell: Callable[[str], None]) -> Iterator[Host]:
    """Loads the model and runs its engine loop until the block ends. Raises ConfigError or ModelRefused."""
    _check_limits(settings)
    lengths = Measured(_length_predictor(settings.length_predictor))
    step_time = None if settings.profile is None else load_profile(settings.profile).step_time
    with recording(settings.record_lengths) as observe:
        engine, tokenizer = open_engine(settings, tell)
        caps = engine.caps
        config = scheduler_config(settings, caps)
        policy = named(config, lengths, step_time)
        loop = EngineLoop(engine, Scheduler(config, policy), observe=observe, length_error=lengths.error)
        service = OpenAIService(loop, tokenizer, options)
        gc.collect()
        gc.freeze()  # a model's many objects stay: to go through them all stops every stream for 0.2 s
        loop.start()
        try:
            yield Host(caps, service, caps.num_blocks * caps.block_size, policy.timing is not None)
        finally:
            loop.close()


def open_engine(settings: ModelSettings, tell: Callable[[str], None]) -> tuple[LocalEngine, HFTokenizer]:
    """Loads the model. Raises ConfigError or ModelRefused."""
    try:
        import torch

        from brim.engines.local.load import load
    except ImportError as exc:
        raise MissingPackages(f"the local engine needs more packages ({exc})", "local") from exc
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return load(
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


def scheduler_config(settings: EngineSettings, caps: EngineCaps) -> SchedulerConfig:
    """The scheduler that fits the engine."""
    asked = {name: value for name, value in settings if name in SchedulerConfig.__dataclass_fields__}
    sizes = {name: getattr(caps, name) for name in ("num_blocks", "block_size", "max_model_len")}
    return SchedulerConfig(**{**asked, **sizes})


def _length_predictor(name: str) -> ResponseLength:
    """Raises ConfigError for a file that can't be read or holds no model."""
    if name in PREDICTORS:
        return PREDICTORS[name]()
    try:
        return Learned(LengthModel.from_json(Path(name).read_text()))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"length_predictor = {name!r}: take {' or '.join(PREDICTORS)}, or a model file ({exc})"
        ) from exc


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


def _num_blocks(settings: ModelSettings) -> int | None:
    if settings.kv_tokens is None:
        return None
    if settings.kv_tokens < settings.block_size:
        raise ConfigError(f"kv_tokens = {settings.kv_tokens} is less than one block of {settings.block_size}")
    return settings.kv_tokens // settings.block_size
