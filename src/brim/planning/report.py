"""A plan as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from brim.planning.demand import HANDFUL, LEAST_BLOCKS
from brim.simulation.results import Figures
from brim.workloads.wording import counted


def text(plan: Figures) -> str:
    return "\n".join(lines(plan))


def lines(plan: Figures) -> Iterator[str]:
    yield asked(plan)
    if plan["trace_note"]:
        yield f"of the trace: {plan['trace_note']}"
    if plan["backlog"] and plan["backlog"]["note"]:
        yield f"of the backlog: {plan['backlog']['note']}"
    if plan["simulated_requests"] < plan["requests"]:
        yield (
            f"searched on the busiest {plan['simulated_requests']} requests in a row, "
            f"{span(plan['simulated_seconds'])} (--max-requests); the band is of these alone"
        )
    for one in plan["plans"]:
        yield ""
        yield from _one(one, plan["attainment"], plan["backlog"])
    yield from _savings(plan)
    yield ""
    yield answer(plan)


def asked(plan: Figures) -> str:
    return (
        f"{plan['trace']}: {counted(plan['requests'], 'request')} in {span(plan['span_seconds'])}; "
        f"TTFT {plan['ttft_ms']:g} ms and TPOT {plan['tpot_ms']:g} ms for {plan['attainment']:.4g} of them"
    )


def answer(plan: Figures) -> str:
    """The best profile, by price where all have one, else by GPUs."""
    if not plan["best"]:
        over = " over the whole trace" if any(p["replicas"] is not None for p in plan["plans"]) else ""
        return f"no profile holds the SLO{over}"
    feasible = [p for p in plan["plans"] if p["feasible"] and p["policy"] == plan["plans"][0]["policy"]]
    unpriced = [p["profile"] for p in feasible if p["cost_per_hour"] is None]
    best = " and ".join([plan["best"], *plan["as_good"]])
    if not unpriced:
        return f"cheapest: {best}"
    return f"fewest GPUs: {best} (--price was not given for {', '.join(unpriced)})"


def span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _one(one: Figures, target: float, backlog: Figures | None) -> Iterator[str]:
    steps = "fitted step times" if one["profile_kind"] == "fitted" else "step times from data sheets"
    yield f"{one['profile']} under {one['policy']} ({steps}, {one['routing']})"
    if not one["feasible"]:
        yield f"  INFEASIBLE: {why_not(one)}"
    if one["replicas"] is None:
        return
    if one["too_long"]:
        yield f"  {counted(one['too_long'], 'request')} of those simulated {_cut(one)}"
    run = one["run"]["online"]
    cost = "" if one["cost_per_hour"] is None else f", ${one['cost_per_hour']:.2f} an hour"
    yield f"  {counted(one['replicas'], 'replica')}, {counted(one['gpus'], 'GPU')}{cost}"
    yield (
        f"  attainment {run['slo_attainment']:.4f}; TTFT p50 {_ms(run['ttft_seconds']['p50'])}, "
        f"p99 {_ms(run['ttft_seconds']['p99'])}; TPOT p50 {_ms(run['tpot_seconds']['p50'])}, "
        f"p99 {_ms(run['tpot_seconds']['p99'])}; busy (a step ran) {one['run']['busy_share']:.0%} of the time"
    )
    yield from _ceiling(one, target)
    fewer = one["attempts"].get(one["replicas"] - 1)
    if fewer is not None:
        yield f"  one replica fewer reaches {fewer:.4f}"
    if "band" in one:
        yield from _rest(one)
        yield from _whole(one, target)
        yield from _of_the_backlog(one, backlog)
        yield from _beside(one, target)


def _ceiling(one: Figures, target: float) -> Iterator[str]:
    """Where half of the misses that the target allows are such as no replica can help."""
    most = one["reachable_attainment"]
    if 2 * (1 - most) >= 1 - target and most < 1:
        yield (
            f"  at most {most:.4f} can be reached, however many replicas: "
            "the others miss even alone on an idle one"
        )


def _cut(one: Figures) -> str:
    return (
        f"do not fit in the {one['kv_tokens']} tokens of a replica's KV cache: "
        "their answers are cut, end sooner than in the trace and may count as met, or they are refused"
    )


def why_not(one: Figures) -> str:
    if not one["attempts"]:
        long = f" ({one['too_long']} {_cut(one)}: see --kv-tokens)" if one["too_long"] else ""
        return (
            f"on an idle replica {one['reachable_attainment']:.4f} of the requests meet both targets{long}: "
            "relax --ttft or --tpot, or take a faster profile"
        )
    if one["replicas"] is not None:
        whole = one["whole"]
        return (
            f"{_hold(one['replicas'])} the SLO where the trace is busiest, and the SLO is NOT held over the "
            f"whole trace: attainment {whole['attainment']:.4f}, least in the part that begins "
            f"{span(whole['least_at_seconds'])} after the first request ({whole['least']:.4f}): "
            "search on more of the trace (--max-requests), or look at that part"
        )
    most = max(one["attempts"], key=int)
    return (
        f"{counted(most, 'replica')} {'reaches' if most == 1 else 'reach'} {one['attempts'][most]:.4f}: "
        "relax --ttft, --tpot or --attainment, or raise --max-replicas"
    )


def _hold(replicas: int) -> str:
    return f"{counted(replicas, 'replica')} {'holds' if replicas == 1 else 'hold'}"


def _rest(one: Figures) -> Iterator[str]:
    scaling, over_time = one["scaling"], one["over_time"]
    yield _band(one["band"])
    if over_time:
        yield _needed(one, over_time)
    yield (
        _scaled(one, scaling)
        if scaling
        else ("  scaled: none of the targets tried holds the SLO with this start-up time; keep them all up")
    )


def _band(band: Figures) -> str:
    beyond = f", and {band['infeasible']} runs that no number held" if band["infeasible"] else ""
    replicas = counted(band["most"], "replica")
    if band["least"] < band["most"]:
        replicas = f"{band['least']} to {replicas}"
    resampled = any(run["label"].startswith("resampled") for run in band["runs"])
    over = "over resampled arrivals and step times" if resampled else "over step times"
    short = f"; under {LEAST_BLOCKS * HANDFUL} requests are too few for a range over other arrivals"
    off = f"{band['step_time_error']:.1%} off ({band['step_time_error_is']})"
    return f"  {replicas} {over} {off}{beyond}{short if band['too_short'] else ''}"


def _needed(one: Figures, over_time: Figures) -> str:
    searched, unheld = over_time["searched_parts"], over_time["unheld_parts"]
    if not over_time["replicas"]:
        return f"  needed over time: no number held any of the {counted(searched, 'part')} simulated"
    beyond = f"; no number held {unheld} of these, where more are needed than said" if unheld else ""
    return (
        f"  needed over time: {_on_average(one, over_time['mean'])}, {over_time['peak']} at most "
        f"(parts of {span(over_time['part_seconds'])}, each with the SLO held in it; {searched} of them "
        f"simulated{beyond}; the others read off by their load)"
    )


def _scaled(one: Figures, scaling: Figures) -> str:
    worth = "" if scaling["replicas_mean"] < one["replicas"] else "; no fewer than with all of them up"
    simulated = "all of the trace simulated"
    if not scaling["complete"]:
        simulated = (
            f"standard errors {scaling['replicas_standard_error']:.2f} and "
            f"{scaling['attainment_standard_error']:.4f}, {scaling['simulated_requests']} requests in "
            f"{scaling['stretches']} stretches of every load"
        )
    if scaling["stretches"]:
        simulated += f"; {scaling['busiest_attainment']:.4f} where it is busiest"
    return (
        f"  scaled at {scaling['target_requests_per_replica']:.3g} requests a replica, "
        f"{scaling['startup_seconds']:g} s to start: {_on_average(one, scaling['replicas_mean'])}, "
        f"from {scaling['replicas_least']} to {scaling['replicas_peak']}, "
        f"attainment {scaling['attainment']:.4f} ({simulated}){worth}"
    )


def _on_average(one: Figures, replicas: float) -> str:
    """With what the GPUs cost, where a price is known."""
    price, gpus = one["price_per_gpu_hour"], replicas * one["gpus_per_replica"]
    cost = "" if price is None else f", ${price * gpus:.2f} an hour"
    return f"{replicas:.2f} replicas on average ({gpus:.2f} GPUs{cost})"


def _whole(one: Figures, target: float) -> Iterator[str]:
    whole = one["whole"]
    if not whole:
        return
    simulated = "all of it simulated"
    if not whole["complete"]:
        simulated = (
            f"standard error {whole['standard_error']:.4f}: {whole['simulated_requests']} requests in "
            f"{whole['stretches']} stretches of every load were simulated (--check-requests)"
        )
    missed = "" if whole["attainment"] >= target else "; the SLO is NOT held over the whole trace"
    yield f"  over the whole trace: attainment {whole['attainment']:.4f}, {simulated}{missed}"


def _beside(one: Figures, target: float) -> Iterator[str]:
    if offline := one["offline"]:
        more = offline["replicas"] - one["replicas"]
        missed = "" if offline["attainment"] >= target else "; the SLO is NOT held with it"
        enough = not missed and not _too_much(offline["backlog"])
        where = "for nothing, on the same replicas" if enough else "on the same replicas"
        if more:
            where = f"on {counted(more, 'more replica')}"
        yield (
            f"  offline work beside it {where}: "
            f"{offline['tokens_per_second']:.0f} tokens/s, {offline['tokens_per_day']:.3g} a day, "
            f"attainment {offline['attainment']:.4f}, "
            f"busy {offline['busy_share']:.0%} of the time{missed} "
            f"({span(offline['simulated_seconds'])} of it simulated)"
        )
        if offline["backlog"]:
            yield _when_done(offline["backlog"])


def _too_much(backlog: Figures | None) -> bool:
    """Whether more comes each day than is done in one."""
    return bool(backlog and backlog["daily"] and (backlog["days_of_work"] or inf) > 1)


def _when_done(backlog: Figures) -> str:
    tokens, days = f"{backlog['tokens']:.3g} tokens", backlog["days_of_work"]
    if backlog["done_seconds"] is None:
        return f"  a backlog of {tokens} is never done: there is no room for it"
    if _too_much(backlog):
        return (
            f"  {tokens} come each day, more than is done: what waits grows without end; up to about "
            f"{days:.3g} times the replicas would be needed"
        )
    return f"  a backlog of {tokens} is done after {span(backlog['done_seconds'])}"


def _of_the_backlog(one: Figures, backlog: Figures | None) -> Iterator[str]:
    """What of it is left out, and why."""
    if backlog and one["backlog_too_long"]:
        yield (
            f"  {one['backlog_too_long']} of the backlog's {counted(backlog['requests'], 'request')} "
            f"{'does' if one['backlog_too_long'] == 1 else 'do'} not fit in the {one['kv_tokens']} tokens of "
            "a replica's KV cache: left out (--kv-tokens)"
        )


def _savings(plan: Figures) -> Iterator[str]:
    """Of the first policy against the others, by profile."""
    first = plan["plans"][0]["policy"]
    by_profile = {p["profile"]: p for p in plan["plans"] if p["policy"] == first and p["feasible"]}
    others = [p for p in plan["plans"] if p["policy"] != first and p["profile"] in by_profile]
    if others:
        yield ""
    for other in others:
        ours = by_profile[other["profile"]]
        told = f"{first} on {ours['profile']}: {counted(ours['gpus'], 'GPU')}"
        if not other["feasible"]:
            yield f"{told}; {other['policy']}: {why_not(other)}"
            continue
        yield (f"{told}, {other['policy']} {other['gpus']}: {_difference(ours, other)}")


def _difference(ours: Figures, other: Figures) -> str:
    more, price = ours["gpus"] - other["gpus"], ours["price_per_gpu_hour"]
    if not more:
        return "as many"
    share, word = abs(more) / other["gpus"], "more" if more > 0 else "fewer"
    dollars = "" if price is None else f", ${price * abs(more):.2f} an hour {'more' if more > 0 else 'less'}"
    return f"{share:.0%} {word}{dollars}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
