"""Every published scheduler is one row: a composition of rules."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from brim.core.config import SchedulerConfig
from brim.core.decide import Policy
from brim.core.errors import ConfigError
from brim.core.policies.admitting import Watermark
from brim.core.policies.chunking import FillTheBudget
from brim.core.policies.filling import FixedBudget
from brim.core.policies.ordering import FirstComeFirstServed, OnlineFirst
from brim.core.policies.preempting import LastComeFirstPreempted, OfflineFirst


def _vllm(config: SchedulerConfig) -> Policy:
    """vLLM V1: first come first served, chunked prefill, blocks on demand, the newest recomputed."""
    return Policy(
        name="vllm",
        ordering=FirstComeFirstServed(),
        preempting=LastComeFirstPreempted(),
        admitting=Watermark(0.0),
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=FixedBudget(config.max_num_batched_tokens),
    )


def _priority(config: SchedulerConfig) -> Policy:
    """The same, with online requests before offline ones and offline ones preempted first."""
    return Policy(
        name="priority",
        ordering=OnlineFirst(),
        preempting=OfflineFirst(),
        admitting=Watermark(0.01),
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=FixedBudget(config.max_num_batched_tokens),
    )


NAMED: dict[str, Callable[[SchedulerConfig], Policy]] = {
    "vllm": _vllm,
    "priority": _priority,
}


def named(config: SchedulerConfig) -> Policy:
    """The policy that `config.policy` names. Raises ConfigError with the names there are."""
    refuse_unknown(config.policy)
    return NAMED[config.policy](config)


def refuse_unknown(name: str) -> None:
    """Raises ConfigError where no policy has that name."""
    if name not in NAMED:
        close = get_close_matches(name, NAMED, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"there is no policy {name!r}: {hint}take one of {', '.join(NAMED)}")
