"""Every published scheduler is one row: a composition of rules.

The rows of EconoServe are built from its published abstract and summaries (arXiv 2411.06364); the
baselines follow their papers in what they decide, not in the engine that they ran on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from brim.core.config import SchedulerConfig
from brim.core.errors import ConfigError
from brim.core.estimators.online_demand import OnlineDemand
from brim.core.estimators.pace import Pace
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.response_length import History, ResponseLength
from brim.core.estimators.step_time import StepTime
from brim.core.kvcache.eviction import Evicting
from brim.core.kvcache.headroom import Headroom
from brim.core.offline.planning import Planning
from brim.core.policies.admitting import InverseGuard, Watermark
from brim.core.policies.chunking import FillTheBudget, WholePrompts
from brim.core.policies.expecting import Predicted
from brim.core.policies.filling import FixedBudget
from brim.core.policies.grouping import SameEnd
from brim.core.policies.hurrying import FirstTokens
from brim.core.policies.lending import Lending
from brim.core.policies.ordering import (
    ByRanges,
    FirstComeFirstServed,
    MultiLevelFeedback,
    OnlineFirst,
    ShortestRemaining,
    ShortestUnlessUrgent,
)
from brim.core.policies.picking import LongestFit, NearestFit
from brim.core.policies.preempting import (
    LastComeFirstPreempted,
    LeastLossThenLongest,
    LongestRemainingFirst,
    LowestLevelFirst,
    OfflineFirst,
    OfflineLeastLoss,
)
from brim.core.policies.promising import Exact, Maximum
from brim.core.policies.timing import BySlack, FixedLatency
from brim.core.policy import Policy


class Known(NamedTuple):
    """What is known before anything has run: a predictor of answers, and how long a step takes."""

    lengths: ResponseLength
    step_time: StepTime | None = None  # None: the first steps teach all


Row = Callable[[SchedulerConfig, Known], Policy]
_STEP_LIMIT_MS = 50.0  # where none is given: a usual target for the time between tokens


def _vllm(config: SchedulerConfig, known: Known) -> Policy:
    """vLLM V1: first come first served, chunked prefill, blocks on demand, the newest recomputed."""
    return Policy(
        name="vllm",
        ordering=FirstComeFirstServed(),
        preempting=LastComeFirstPreempted(),
        admitting=Watermark(0.0),
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=FixedBudget(config.max_num_batched_tokens),
    )


def _priority(config: SchedulerConfig, known: Known) -> Policy:
    """The same, with online requests before offline ones and offline ones preempted first."""
    return replace(
        _vllm(config, known),
        name="priority",
        ordering=OnlineFirst(),
        preempting=OfflineFirst(),
        admitting=Watermark(0.01),
    )


def _vllm_2023(config: SchedulerConfig, known: Known) -> Policy:
    """vLLM as first published (arXiv 2309.06180): whole prompts in steps of their own, before outputs."""
    return replace(
        _vllm(config, known),
        name="vllm-2023",
        admitting=Watermark(0.01),
        chunking=WholePrompts(config.max_num_batched_tokens),
        filling=FixedBudget(config.max_num_batched_tokens, prompts_alone=True),
    )


def _sarathi(config: SchedulerConfig, known: Known) -> Policy:
    """Sarathi-Serve (arXiv 2403.02310): chunks fill every step up to a budget, beside all outputs."""
    budget = min(config.max_num_batched_tokens, max(512, config.max_num_seqs))
    return replace(
        _vllm(config, known), name="sarathi", admitting=Watermark(0.01), filling=FixedBudget(budget)
    )


def _orca(config: SchedulerConfig, known: Known) -> Policy:
    """ORCA (OSDI 2022): first come first served, the maximum reserved, whole prompts beside outputs."""
    return replace(
        _vllm(config, known),
        name="orca",
        chunking=WholePrompts(config.max_num_batched_tokens),
        promising=Maximum(),
    )


def _fastserve(config: SchedulerConfig, known: Known) -> Policy:
    """FastServe (arXiv 2305.05920): a skip-join multi-level feedback queue, the maximum reserved.

    Who gives way is recomputed; FastServe swaps to the host's memory.
    """
    levels = MultiLevelFeedback()
    return replace(
        _orca(config, known), name="fastserve", ordering=levels, preempting=LowestLevelFirst(levels)
    )


def _srtf(config: SchedulerConfig, known: Known) -> Policy:
    """Shortest expected remaining work first, blocks on demand, the longest preempted first."""
    return replace(
        _vllm(config, known),
        name="srtf",
        ordering=ShortestRemaining(),
        preempting=LongestRemainingFirst(),
        admitting=Watermark(0.01),
        expecting=_predicted(config, known),
    )


def _s3(config: SchedulerConfig, known: Known) -> Policy:
    """S3 (arXiv 2306.06000): the predicted length is reserved, one queue in order of arrival."""
    return replace(
        _vllm(config, known),
        name="s3",
        chunking=WholePrompts(config.max_num_batched_tokens),
        expecting=_predicted(config, known),
        promising=Exact(),
    )


def _multires(config: SchedulerConfig, known: Known) -> Policy:
    """Exact allocation, and always the request nearest to what is left of tokens and blocks."""
    return replace(
        _s3(config, known),
        name="multires",
        chunking=FillTheBudget(config.max_prefill_chunk_tokens),
        filling=_target(config),
        picking=NearestFit(),
    )


def _econoserve_d(config: SchedulerConfig, known: Known) -> Policy:
    """EconoServe-D: prompts and outputs in two queues, steps filled to the target forward size."""
    return replace(
        _vllm(config, known),
        name="econoserve-d",
        admitting=_guard(config),
        filling=_target(config),
        expecting=_predicted(config, known),
        decoupled=True,
    )


def _econoserve_sd(config: SchedulerConfig, known: Known) -> Policy:
    """EconoServe-SD: with exact allocation, and outputs of the same length started together."""
    return replace(_econoserve_d(config, known), name="econoserve-sd", promising=Exact(), grouping=SameEnd())


def _econoserve_sdo(config: SchedulerConfig, known: Known) -> Policy:
    """EconoServe-SDO: ordered by deadline, KV held and length."""
    pace = Pace()
    ordering = ByRanges(pace)
    return replace(
        _econoserve_sd(config, known),
        name="econoserve-sdo",
        ordering=ordering,
        picking=LongestFit(ordering),
        pace=pace,
    )


def _econoserve(config: SchedulerConfig, known: Known) -> Policy:
    """EconoServe whole: promised blocks are lent until their host gets there."""
    lending = Lending(ByRanges(), config.loan_buffer_tokens)
    return replace(_econoserve_sdo(config, known), name="econoserve", lending=lending)


def _predicted(config: SchedulerConfig, known: Known) -> Predicted:
    return Predicted(known.lengths, config.length_padding, config.block_size)


def _planning(config: SchedulerConfig, steps: RefittedStepTime) -> Planning:
    return Planning(steps, config.block_size, by_rate=config.offline_score == "rate")


def _guard(config: SchedulerConfig) -> InverseGuard:
    return InverseGuard(config.reserve_share, config.floor_tokens)


def _target(config: SchedulerConfig) -> FixedBudget:
    return FixedBudget(config.forward_tokens)


def _bs(config: SchedulerConfig, known: Known) -> Policy:
    """Online first, LRU prefix cache, offline preempted and held to a fixed number of tokens a step."""
    offline_tokens = config.offline_step_tokens or config.max_num_batched_tokens
    filling = FixedBudget(config.max_num_batched_tokens, offline_tokens=offline_tokens)
    return replace(_priority(config, known), name="bs", filling=filling)


def _bs_e(config: SchedulerConfig, known: Known) -> Policy:
    """BS+E: the time that online requests leave instead of a fixed number of tokens.

    How long answers get counts where one is due as a whole.
    """
    ttft_ns = round(config.ttft_ms * 1e6) if config.ttft_ms else None
    steps = RefittedStepTime(known.step_time)
    timing = BySlack(steps, config.max_num_batched_tokens, config.slack_share, ttft_ns)
    return replace(_priority(config, known), name="bs-e", timing=timing, expecting=_predicted(config, known))


def _bs_e_s(config: SchedulerConfig, known: Known) -> Policy:
    """BS+E+S: offline requests wait in a pool, prefix by prefix, and are added by score."""
    policy = _bs_e(config, known)
    assert policy.timing is not None
    return replace(policy, name="bs-e-s", planning=_planning(config, policy.timing.steps))


def _echo(config: SchedulerConfig, known: Known) -> Policy:
    """Echo (arXiv 2504.03651): eviction by class and reuse, room kept for bursts, least loss first.

    Half a minute and one deviation: two of two minutes cost up to 40 % of the offline work where KV is
    scarce, for fewer preemptions that lose little.
    """
    return replace(
        _bs_e_s(config, known),
        name="echo",
        evicting=Evicting.BY_REUSE,
        headroom=Headroom(config.num_blocks, OnlineDemand(30.0, 15, 1.0)),
        preempting=OfflineLeastLoss(),
    )


def _brim(config: SchedulerConfig, known: Known) -> Policy:
    """Online the shortest first unless one is urgent and can still be in time; offline as in Echo."""
    policy = _echo(config, known)
    assert policy.timing is not None
    return replace(
        policy,
        name="brim",
        ordering=ShortestUnlessUrgent(prompt_ns=policy.timing.steps.prompt_ns),
        hurrying=FirstTokens(),
        preempting=LeastLossThenLongest(),
    )


def _hygen(config: SchedulerConfig, known: Known) -> Policy:
    """HyGen (arXiv 2501.14808): a step with offline requests has a fixed time, they come by shared prefix.

    Its own order is that of a walk over a prefix tree; here the pool offers what the cache holds most of.
    """
    steps = RefittedStepTime(known.step_time)
    limit_ns = round((config.step_limit_ms or _STEP_LIMIT_MS) * 1e6)
    return replace(
        _priority(config, known),
        name="hygen",
        timing=FixedLatency(steps, limit_ns),
        planning=_planning(config, steps),
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
    "brim": _brim,
    "hygen": _hygen,
}


def named(
    config: SchedulerConfig, lengths: ResponseLength | None = None, step_time: StepTime | None = None
) -> Policy:
    """The policy that `config.policy` names, with `lengths` to predict answers (default: their history).

    `step_time` is what the estimate of a step's time starts from, in policies that have one; without it
    the first steps teach all. Raises ConfigError with the names there are.
    """
    refuse_unknown(config.policy)
    return NAMED[config.policy](config, Known(lengths or History(), step_time))


def refuse_unknown(name: str) -> None:
    """Raises ConfigError where no policy has that name."""
    if name not in NAMED:
        close = get_close_matches(name, NAMED, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"there is no policy {name!r}: {hint}take one of {', '.join(NAMED)}")
