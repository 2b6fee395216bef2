"""Every published scheduler is one row: a composition of rules.

The rows of EconoServe are built from its published abstract and summaries (arXiv 2411.06364); the
baselines follow their papers in what they decide, not in the engine that they ran on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.online_demand import OnlineDemand
from brim.core.estimators.pace import Pace
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.response_length import History, ResponseLength
from brim.core.kvcache.eviction import Evicting
from brim.core.kvcache.headroom import Headroom
from brim.core.offline.planning import Planning
from brim.core.policies.admitting import InverseGuard, Watermark
from brim.core.policies.chunking import FillTheBudget, WholePrompts
from brim.core.policies.expecting import Predicted
from brim.core.policies.filling import FixedBudget
from brim.core.policies.grouping import SameEnd
from brim.core.policies.lending import Lending
from brim.core.policies.ordering import (
    ByRanges,
    FirstComeFirstServed,
    MultiLevelFeedback,
    OnlineFirst,
    ShortestRemaining,
)
from brim.core.policies.picking import LongestFit, NearestFit
from brim.core.policies.preempting import (
    LastComeFirstPreempted,
    LongestRemainingFirst,
    LowestLevelFirst,
    OfflineFirst,
    OfflineLeastLoss,
)
from brim.core.policies.promising import Exact, Maximum
from brim.core.policies.timing import BySlack, FixedLatency
from brim.core.policy import Policy

Row = Callable[[SchedulerConfig, ResponseLength], Policy]
_STEP_LIMIT_MS = 50.0  # where none is given: a usual target for the time between tokens


def _vllm(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """vLLM V1: first come first served, chunked prefill, blocks on demand, the newest recomputed."""
    return Policy(
        name="vllm",
        ordering=FirstComeFirstServed(),
        preempting=LastComeFirstPreempted(),
        admitting=Watermark(0.0),
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=FixedBudget(config.max_num_batched_tokens),
    )


def _priority(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """The same, with online requests before offline ones and offline ones preempted first."""
    return replace(
        _vllm(config, lengths),
        name="priority",
        ordering=OnlineFirst(),
        preempting=OfflineFirst(),
        admitting=Watermark(0.01),
    )


def _vllm_2023(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """vLLM as first published (arXiv 2309.06180): whole prompts in steps of their own, before outputs."""
    return replace(
        _vllm(config, lengths),
        name="vllm-2023",
        admitting=Watermark(0.01),
        chunking=WholePrompts(config.max_num_batched_tokens),
        filling=FixedBudget(config.max_num_batched_tokens, prompts_alone=True),
    )


def _sarathi(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """Sarathi-Serve (arXiv 2403.02310): chunks fill every step up to a budget, beside all outputs."""
    budget = min(config.max_num_batched_tokens, max(512, config.max_num_seqs))
    return replace(
        _vllm(config, lengths), name="sarathi", admitting=Watermark(0.01), filling=FixedBudget(budget)
    )


def _orca(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """ORCA (OSDI 2022): first come first served, the maximum reserved, whole prompts beside outputs."""
    return replace(
        _vllm(config, lengths),
        name="orca",
        chunking=WholePrompts(config.max_num_batched_tokens),
        promising=Maximum(),
    )


def _fastserve(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """FastServe (arXiv 2305.05920): a skip-join multi-level feedback queue, the maximum reserved.

    Who gives way is recomputed; FastServe swaps to the host's memory.
    """
    levels = MultiLevelFeedback()
    return replace(
        _orca(config, lengths), name="fastserve", ordering=levels, preempting=LowestLevelFirst(levels)
    )


def _srtf(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """Shortest expected remaining work first, blocks on demand, the longest preempted first."""
    return replace(
        _vllm(config, lengths),
        name="srtf",
        ordering=ShortestRemaining(),
        preempting=LongestRemainingFirst(),
        admitting=Watermark(0.01),
        expecting=_predicted(config, lengths),
    )


def _s3(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """S3 (arXiv 2306.06000): the predicted length is reserved, one queue in order of arrival."""
    return replace(
        _vllm(config, lengths),
        name="s3",
        chunking=WholePrompts(config.max_num_batched_tokens),
        expecting=_predicted(config, lengths),
        promising=Exact(),
    )


def _multires(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """Exact allocation, and always the request nearest to what is left of tokens and blocks."""
    return replace(
        _s3(config, lengths),
        name="multires",
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=_target(config),
        picking=NearestFit(),
    )


def _econoserve_d(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """EconoServe-D: prompts and outputs in two queues, steps filled to the target forward size."""
    return replace(
        _vllm(config, lengths),
        name="econoserve-d",
        admitting=_guard(config),
        filling=_target(config),
        expecting=_predicted(config, lengths),
        decoupled=True,
    )


def _econoserve_sd(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """EconoServe-SD: with exact allocation, and outputs of the same length started together."""
    return replace(
        _econoserve_d(config, lengths), name="econoserve-sd", promising=Exact(), grouping=SameEnd()
    )


def _econoserve_sdo(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """EconoServe-SDO: ordered by deadline, KV held and length."""
    pace = Pace()
    ordering = ByRanges(pace)
    return replace(
        _econoserve_sd(config, lengths),
        name="econoserve-sdo",
        ordering=ordering,
        picking=LongestFit(ordering),
        pace=pace,
    )


def _econoserve(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """EconoServe whole: promised blocks are lent until their host gets there."""
    lending = Lending(ByRanges(), config.loan_buffer_tokens)
    return replace(_econoserve_sdo(config, lengths), name="econoserve", lending=lending)


def _predicted(config: SchedulerConfig, lengths: ResponseLength) -> Predicted:
    return Predicted(lengths, config.length_padding, config.block_size)


def _guard(config: SchedulerConfig) -> InverseGuard:
    return InverseGuard(config.reserve_share, config.floor_tokens)


def _target(config: SchedulerConfig) -> FixedBudget:
    return FixedBudget(config.forward_tokens)


def _bs(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """Online first, LRU prefix cache, offline preempted and held to a fixed number of tokens a step."""
    offline_tokens = config.offline_step_tokens or config.max_num_batched_tokens
    filling = FixedBudget(config.max_num_batched_tokens, offline_tokens=offline_tokens)
    return replace(_priority(config, lengths), name="bs", filling=filling)


def _bs_e(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """BS+E: the time that online requests leave instead of a fixed number of tokens."""
    timing = BySlack(RefittedStepTime(), config.max_num_batched_tokens, config.slack_share)
    return replace(_priority(config, lengths), name="bs-e", timing=timing)


def _bs_e_s(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """BS+E+S: offline requests wait in a pool, prefix by prefix, and are added by score."""
    policy = _bs_e(config, lengths)
    assert policy.timing is not None
    return replace(policy, name="bs-e-s", planning=Planning(policy.timing.steps, config.block_size))


def _echo(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """Echo (arXiv 2504.03651): eviction by class and reuse, room kept for bursts, least loss first."""
    return replace(
        _bs_e_s(config, lengths),
        name="echo",
        evicting=Evicting.BY_REUSE,
        headroom=Headroom(config.num_blocks, OnlineDemand()),
        preempting=OfflineLeastLoss(),
    )


def _hygen(config: SchedulerConfig, lengths: ResponseLength) -> Policy:
    """HyGen (arXiv 2501.14808): a step with offline requests has a fixed time, they come by shared prefix.

    Its own order is that of a walk over a prefix tree; here the pool offers what the cache holds most of.
    """
    steps = RefittedStepTime()
    limit_ns = round((config.step_limit_ms or _STEP_LIMIT_MS) * 1e6)
    return replace(
        _priority(config, lengths),
        name="hygen",
        timing=FixedLatency(steps, limit_ns),
        planning=Planning(steps, config.block_size),
    )


NAMED: dict[str, Row] = {
    "vllm": _vllm,
    "priority": _priority,
    "vllm-2023": _vllm_2023,
    "sarathi": _sarathi,
    "orca": _orca,
    "fastserve": _fastserve,
    "srtf": _srtf,
    "s3": _s3,
    "multires": _multires,
    "econoserve-d": _econoserve_d,
    "econoserve-sd": _econoserve_sd,
    "econoserve-sdo": _econoserve_sdo,
    "econoserve": _econoserve,
    "bs": _bs,
    "bs-e": _bs_e,
    "bs-e-s": _bs_e_s,
    "echo": _echo,
    "hygen": _hygen,
}


def named(config: SchedulerConfig, lengths: ResponseLength | None = None) -> Policy:
    """The policy that `config.policy` names, with `lengths` to predict answers (default: their history).

    Raises ConfigError with the names there are.
    """
    refuse_unknown(config.policy)
    return NAMED[config.policy](config, lengths or History())


def refuse_unknown(name: str) -> None:
    """Raises ConfigError where no policy has that name."""
    if name not in NAMED:
        close = get_close_matches(name, NAMED, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"there is no policy {name!r}: {hint}take one of {', '.join(NAMED)}")
