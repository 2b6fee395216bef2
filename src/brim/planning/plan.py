"""plan(question, jobs, tell) -> Figures: the least replicas of each kind, their cost, and what else fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import ceil

from brim.core.errors import ConfigError
from brim.planning.backlog import KEPT, Backlog
from brim.planning.demand import busiest, resampled, too_short
from brim.planning.measure import Measure, Tell, measuring
from brim.planning.offline import backlog_done, fillings, offline_figures
from brim.planning.over_time import over_time
from brim.planning.parts import SHARES, Parts
from brim.planning.question import Aim, Kind, Load, cluster, error_of, fits, reachable, too_long
from brim.planning.scaling import autoscaling, tries
from brim.planning.tasks import Scaled, Search, Task
from brim.planning.whole import checks, whole_figures
from brim.simulation.results import Figures
from brim.simulation.truth import refuse_unchained
from brim.workloads.trace import NANOSECONDS, Trace, apart, begun

BUSY = 0.8  # a first guess: how busy a replica may be at its targets


@dataclass(frozen=True, slots=True)
class Question:
    """`prices` are dollars for an hour of one GPU, by profile.

    Of a trace longer than `max_requests` only the busiest so many in a row are searched on, and stretches
    with `check_requests` in all are simulated at the answer.
    """

    trace: Trace
    aim: Aim
    kinds: Sequence[Kind]
    prices: dict[str, float]
    backlog: Backlog | None = None
    samples: int = 4
    startup_seconds: float = 120.0
    max_requests: int = 30_000
    check_requests: int = 30_000
    most_replicas: int = 128
    seed: int = 0


def plan(question: Question, jobs: int, tell: Tell) -> Figures:
    """Plans for each profile with the first policy; with the others the least replicas alone."""
    question = _apart(replace(question, trace=begun(question.trace)))
    load, parts = _load(question), Parts(question.trace)
    kinds = [
        kind for kind in question.kinds if reachable(kind, load, question.aim) >= question.aim.attainment
    ]
    measure = measuring(jobs, tell)
    searches = measure("least replicas", {kind: [_search(question, kind, load)] for kind in kinds})
    by_kind = {kind: found for kind, [found] in searches.items()}
    first = question.kinds[0].policy
    least = {
        kind: by_kind[kind]["replicas"]
        for kind in kinds
        if kind.policy == first and by_kind[kind]["replicas"] is not None
    }
    tasks = {kind: list(_further(question, kind, load, parts, by_kind[kind])) for kind in least}
    further = measure("band, scaling, the whole trace", tasks)
    scaling = _scaling(question, parts, by_kind, tasks, further, measure)
    fitting = _fitting(question, load, least)
    offline = _offline(question, load, parts, least, fitting, measure)
    plans = []
    for kind in question.kinds:
        one = _plan(question, kind, load, by_kind.get(kind))
        if kind in least:
            one |= _rest(question, kind, load, parts, further[kind], one["replicas"])
            one |= {"scaling": scaling[kind], "offline": offline.get(kind)}
            one |= _left_out(question, fitting.get(kind))
            one["feasible"] = _held_over_all(one["whole"], question.aim)
        plans.append(one)
    best = _best(plans, first)
    return {**_about(question, load), "plans": plans, "best": next(iter(best), None), "as_good": best[1:]}


def _apart(question: Question) -> Question:
    """Prefixes of the backlog are none of the online requests'. Raises TraceError and ConfigError."""
    if question.backlog is None:
        return question
    online, offline = apart(question.trace, question.backlog.trace)
    refuse_unchained(offline)
    return replace(question, trace=online, backlog=replace(question.backlog, trace=offline))


def _load(question: Question) -> Load:
    trace = busiest(question.trace, question.max_requests)
    backlog = question.backlog.trace.requests if question.backlog else ()
    longest = max(r.input_tokens + r.output_tokens for r in chain(question.trace.requests, backlog))
    span_ns = trace.requests[-1].arrival_ns
    if not span_ns and len(trace) < len(question.trace):
        raise ConfigError(f"{trace.name}: its busiest {len(trace)} arrive at once: raise --max-requests")
    if not span_ns:
        raise ConfigError(f"{trace.name}: all requests arrive at once: give a trace over some time")
    return Load(trace, 1 << longest.bit_length(), window_ns=max(span_ns // 48, NANOSECONDS))


def _search(question: Question, kind: Kind, load: Load) -> Search:
    machine = cluster(kind, load, question.aim, 1).serving.machine
    busy_ps = 0
    for request in load.trace.requests:
        prompt_ps, token_ps = machine.alone_ps(request.input_tokens, request.output_tokens)
        busy_ps += prompt_ps + token_ps * request.output_tokens // 16  # a token shares its step
    near = ceil(busy_ps / 1000 / load.span_ns / BUSY)
    return Search(kind, load, question.aim, min(near, question.most_replicas), question.most_replicas)


def _further(question: Question, kind: Kind, load: Load, parts: Parts, found: Figures) -> Iterator[Task]:
    """The longest first."""
    least, most, aim = found["replicas"], question.most_replicas, question.aim
    yield from tries(kind, load, aim, found, round(question.startup_seconds * NANOSECONDS))
    for seed in range(0 if too_short(load.trace) else question.samples):
        other = replace(load, trace=resampled(load.trace, question.seed + seed))
        yield Search(kind, other, aim, least, most, "resampled arrivals")
    error = error_of(kind.load()).share
    for factor in (1 + error, 1 - error):
        yield Search(replace(kind, slower=factor), load, aim, least, most, f"steps of {factor:.3g} times")
    for part in parts.chosen() if len(parts.all) > 1 else ():
        stretch = parts.busiest(part, max(question.max_requests // len(SHARES), 1))
        yield Search(kind, replace(load, trace=stretch), aim, least, most, "part")
    if len(load.trace) < len(question.trace):
        yield from checks(kind, load, parts, aim, least, question.check_requests, question.seed)


def _scaling(
    question: Question,
    parts: Parts,
    searches: Mapping[Kind, Figures],
    tasks: Mapping[Kind, Sequence[Task]],
    further: Mapping[Kind, Sequence[Figures]],
    measure: Measure,
) -> dict[Kind, Figures | None]:
    tried = {
        kind: [
            (task, one) for task, one in zip(of_kind, further[kind], strict=True) if isinstance(task, Scaled)
        ]
        for kind, of_kind in tasks.items()
    }
    return autoscaling(tried, searches, parts, question.check_requests, question.seed, measure)


def _fitting(question: Question, load: Load, least: Mapping[Kind, int]) -> dict[Kind, Backlog]:
    """What of the backlog a replica of each kind can hold."""
    if (backlog := question.backlog) is None:
        return {}
    setups = {kind: cluster(kind, load, question.aim, 1) for kind in least}
    return {
        kind: backlog.without(r for r in backlog.trace.requests if not fits(setup, r))
        for kind, setup in setups.items()
    }


def _offline(
    question: Question,
    load: Load,
    parts: Parts,
    least: Mapping[Kind, int],
    fitting: Mapping[Kind, Backlog],
    measure: Measure,
) -> dict[Kind, Figures]:
    """Beside the online load, with up to a quarter more replicas where the aim is missed otherwise.

    Kinds that can hold nothing of the backlog are left out.
    """
    found: dict[Kind, Figures] = {}
    loads = {
        kind: replace(load, spare=backlog.drawn(question.seed))
        for kind, backlog in fitting.items()
        if backlog.trace.requests
    }
    wanted = {kind: least[kind] for kind in loads}
    while wanted:
        tasks = {kind: fillings(kind, loads[kind], parts, question.aim, n) for kind, n in wanted.items()}
        for kind, filled in measure("offline work beside it", tasks).items():
            found[kind] = offline_figures(filled, parts)
        most = {kind: min(n + max(n // 4, 1), question.most_replicas) for kind, n in least.items()}
        wanted = {
            kind: n + 1
            for kind, n in wanted.items()
            if found[kind]["attainment"] < question.aim.attainment and n < most[kind]
        }
    for kind, figures in found.items():
        figures["backlog"] = backlog_done(figures, fitting[kind].tokens, fitting[kind].daily)
    return found


# ---- what came of it -----------------------------------------------------------------------------------


def _about(question: Question, load: Load) -> Figures:
    return {
        "trace": question.trace.name,
        "trace_note": question.trace.note,
        "requests": len(question.trace),
        "span_seconds": question.trace.requests[-1].arrival_ns / NANOSECONDS,
        "simulated_requests": len(load.trace),
        "simulated_seconds": load.span_ns / NANOSECONDS,
        "note": load.trace.note,
        "backlog": _of_backlog(question.backlog.trace) if question.backlog else None,
        "ttft_ms": question.aim.ttft_ns / 1e6,
        "tpot_ms": question.aim.tpot_ns / 1e6,
        "attainment": question.aim.attainment,
        "seed": question.seed,
    }


def _of_backlog(trace: Trace) -> Figures:
    drawn = f"{KEPT} of its {len(trace)} requests at most, drawn from all over it, stand for all"
    note = trace.noted(drawn).note if len(trace) > KEPT else trace.note
    return {"trace": trace.name, "requests": len(trace), "note": note}


def _left_out(question: Question, fitting: Backlog | None) -> Figures:
    """How many of the backlog's requests fit in no replica of a kind."""
    if question.backlog is None or fitting is None:
        return {"backlog_too_long": 0}
    return {"backlog_too_long": len(question.backlog.trace) - len(fitting.trace)}


def _plan(question: Question, kind: Kind, load: Load, found: Figures | None) -> Figures:
    profile, setup = kind.load(), cluster(kind, load, question.aim, 1)
    price = question.prices.get(kind.profile)
    about = {
        "profile": kind.profile,
        "profile_kind": profile.kind,
        "policy": kind.policy,
        "routing": kind.routing,
        "gpus_per_replica": profile.tensor_parallel,
        "price_per_gpu_hour": price,
        "reachable_attainment": reachable(kind, load, question.aim),
        "kv_tokens": setup.serving.config.capacity_tokens,
        "too_long": too_long(setup, load),
        "feasible": found is not None and found["replicas"] is not None,
    }
    if found is None or found["replicas"] is None:
        return {**about, "replicas": None, "attempts": found["attempts"] if found else {}}
    gpus = found["replicas"] * profile.tensor_parallel
    return {
        **about,
        "replicas": found["replicas"],
        "gpus": gpus,
        "cost_per_hour": None if price is None else price * gpus,
        "attempts": found["attempts"],
        "run": found["run"],
    }


def _rest(
    question: Question, kind: Kind, load: Load, parts: Parts, further: Sequence[Figures], least: int
) -> Figures:
    searched = [one for one in further if one["label"] == "part"]
    band = [one for one in further if one["label"].startswith(("resampled", "steps"))]
    counts = [one["replicas"] for one in band if one["replicas"] is not None]
    checked = [one for one in further if one["label"] == "checked"]
    error = error_of(kind.load())
    return {
        "band": {
            "least": min([least, *counts]),
            "most": max([least, *counts]),
            "infeasible": len(band) - len(counts),
            "too_short": too_short(load.trace),
            "step_time_error": error.share,
            "step_time_error_is": error.what,
            "runs": [{"label": one["label"], "replicas": one["replicas"]} for one in band],
        },
        "over_time": over_time(parts, searched) if searched else None,
        "whole": whole_figures(checked, len(question.trace)) if checked else None,
    }


def _held_over_all(whole: Figures | None, aim: Aim) -> bool:
    """What holds where the trace is busiest by its mean load may miss a burst elsewhere."""
    return whole is None or whole["attainment"] >= aim.attainment


def _best(plans: Sequence[Figures], policy: str) -> list[str]:
    """The profiles that cost least, to a cent where all feasible ones have a price, else by their GPUs."""
    feasible = [one for one in plans if one["feasible"] and one["policy"] == policy]
    priced = all(one["cost_per_hour"] is not None for one in feasible)
    costs = [round(one["cost_per_hour"] if priced else one["gpus"], 2) for one in feasible]
    return [one["profile"] for one, cost in zip(feasible, costs, strict=True) if cost == min(costs)]
