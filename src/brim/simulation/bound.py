"""What no scheduler can beat on a trace and a machine, however clever and whatever it knows.

Every request that is not refused must have its tokens computed and its answer drawn, one token a step.
The machine is relaxed in four ways, each of which can only help: steps are packed perfectly, requests
change over at any moment at no cost, whatever might be in the prefix cache is found there, and where steps
are uneven each takes as little as any.

**Work.** A step of n tokens takes at least `constant + slope * n` for every line under the convex model,
and its constant can be charged to those in it in any shares that sum to at most 1: their tokens over the
most tokens a step may have, the blocks they hold over all blocks (who draws a token holds its whole
context), or their seats over all seats. So each (line, share) gives every request a work, and the steps of
any set of requests take at least the sum of theirs: jobs for one machine of speed 1, whose best schedules
are known (`fluid`).

**Alone.** Besides, each request waits for its own steps, which take no less than without the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from brim.core.errors import ConfigError
from brim.core.request import SLO, TaskClass
from brim.simulation.fluid import Job, most_on_time, total_flow, total_weighted_flow
from brim.simulation.needs import Need, needs_of, packings
from brim.simulation.results import SHARES, Figures
from brim.simulation.run import Setup
from brim.workloads.trace import Trace, TraceRequest

NAME = "bound"
_PS = 1e12  # in a second
_ROUNDING = 1 - 1e-9  # for sums of floats
_TOLD_SECONDS = 1e-9  # a scheduler is told whole nanoseconds
_NO_SLO = SLO()


def bound(trace: Trace, setup: Setup) -> Figures:
    """A row of figures like a run's, each at least as good as any scheduler's; null where none is known.

    Raises ConfigError for a window of time: the bound holds for whole runs.
    """
    if setup.measure_from_ns or setup.measure_until_ns is not None:
        raise ConfigError("the bound holds for whole runs: leave --measure-from and --measure-until out")
    needs, refused = needs_of(trace, setup)
    works = _works(needs, setup)
    seconds = _seconds(_duration_ps(needs, works))
    classes = {str(c): _of_class(c, needs, works, refused, seconds, setup) for c in TaskClass}
    return {
        "policy": NAME,
        "duration_seconds": seconds,
        "steps": None,
        "simulation_wall_seconds": None,
        **classes,
        "kv": dict.fromkeys(("written_mean", "promised_mean", "lent_mean")),
        "compute": dict.fromkeys(("forward_over_tfs_mean", "busy_share")),
        "allocation_failures": None,
        "preemptions": None,
        "scheduling_seconds_per_step": None,
    }


def _works(needs: Sequence[Need], setup: Setup) -> list[list[float]]:
    """The work of each request, in picoseconds, by every (line, share)."""
    config = setup.config
    shares: tuple[Callable[[Need], float], ...] = (
        lambda need: need.tokens / config.max_num_batched_tokens,
        lambda need: need.block_steps / config.num_blocks,
        lambda need: need.draws / config.max_num_seqs,
    )
    return [
        [need.attention_ps + constant * share(need) + slope * need.tokens for need in needs]
        for constant, slope in packings(setup)
        for share in shares
    ]


def _duration_ps(needs: Sequence[Need], works: Sequence[Sequence[float]]) -> float:
    """From time 0 to the last token: what arrives from any moment on takes its work from then on."""
    longest = max((need.arrival_ps + need.alone_ps for need in needs), default=0.0)
    for work in works:
        left = accumulate(reversed(work))
        longest = max(longest, *(n.arrival_ps + w for n, w in zip(reversed(needs), left, strict=True)), 0.0)
    return longest


def _of_class(
    task_class: TaskClass,
    needs: Sequence[Need],
    works: Sequence[Sequence[float]],
    refused: Sequence[TraceRequest],
    seconds: float,
    setup: Setup,
) -> Figures | None:
    """The others give way to the class; None where it has no request."""
    mine = [i for i, need in enumerate(needs) if need.task_class is task_class]
    lost = [setup.targets.of(r, setup.machine) for r in refused if r.task_class is task_class]
    if not mine and not lost:
        return None
    own = [needs[i] for i in mine]
    own_works = [[work[i] for i in mine] for work in works]
    judged = [need for need in own if need.slo != _NO_SLO]
    met = _most_met(own, own_works)
    attainable = len(judged) + sum(slo != _NO_SLO for slo in lost)
    return {
        "requests": len(own) + len(lost),
        "finished": len(own),
        "refused": len(lost),
        "cut": sum(need.cut for need in own),
        "throughput_requests_per_second": len(own) / seconds if seconds > 0 else None,
        "output_tokens_per_second": sum(n.draws for n in own) / seconds if seconds > 0 else None,
        "goodput_requests_per_second": met / seconds if attainable and seconds > 0 else None,
        "slo_attainment": met / attainable if attainable else None,
        **_latencies(own, own_works),
        "prefix_hit_rate": None,
        "recomputed_tokens": 0,
    }


def _latencies(needs: Sequence[Need], works: Sequence[Sequence[float]]) -> Figures:
    """Lower bounds on means: of every request alone, and of the best schedule of their works together."""
    several = [need for need in needs if need.draws > 1]
    heaviest = max(works, key=sum, default=())
    flow = total_flow([Job(n.arrival_ps, w) for n, w in zip(needs, heaviest, strict=True)])
    weighted = total_weighted_flow(
        [Job(n.arrival_ps, w, 1 / n.draws) for n, w in zip(needs, heaviest, strict=True)]
    )
    alone = sum(need.alone_ps for need in needs)
    alone_by_token = sum(need.alone_ps / need.draws for need in needs)
    return {
        "ttft_seconds": _mean(sum(need.alone_first_ps for need in needs), len(needs)),
        "itl_seconds": _mean(0.0, 0),
        "tpot_seconds": _mean(sum(need.tpot_ps for need in several), len(several)),
        "e2e_seconds": _mean(max(alone, flow), len(needs)),
        "normalized_latency_seconds_per_token": _mean(max(alone_by_token, weighted), len(needs)),
    }


def _most_met(needs: Sequence[Need], works: Sequence[Sequence[float]]) -> int:
    """How many may meet all their targets: alone they could, and together they have the time for it."""
    able = [i for i, need in enumerate(needs) if need.slo != _NO_SLO and _could_alone(need)]
    due = {i: e2e_ns * 1000 + 1000 for i in able if (e2e_ns := needs[i].slo.e2e_ns) is not None}
    others = len(able) - len(due)
    return others + min(
        (
            most_on_time([(needs[i].arrival_ps + due_ps, work[i] * _ROUNDING) for i, due_ps in due.items()])
            for work in works
        ),
        default=0,
    )


def _could_alone(need: Need) -> bool:
    """A time told in whole nanoseconds may be up to one shorter."""
    slo = need.slo
    reached = (
        (slo.ttft_ns, need.alone_first_ps),
        (slo.tpot_ns, need.tpot_ps),
        (slo.itl_ns, need.longest_gap_ps),
        (slo.e2e_ns, need.alone_ps),
    )
    return all(ns is None or ps * _ROUNDING <= (ns + 1) * 1000 for ns, ps in reached)


def _seconds(picoseconds: float) -> float:
    return max(picoseconds / _PS * _ROUNDING - _TOLD_SECONDS, 0.0)


def _mean(total_ps: float, count: int) -> Figures:
    return {"mean": _seconds(total_ps / count) if count else None, **dict.fromkeys(SHARES)}
