"""All tables of a run as one Markdown text."""

from __future__ import annotations

from collections.abc import Sequence

from brim.reproduction.claims import LATENCY, limits, rate_held
from brim.reproduction.markdown import cell, of_points, over_loads, table
from brim.reproduction.plan import ABLATION, AT, BASELINE, FULL, SWEEPS
from brim.reproduction.points import ORACLE
from brim.simulation.results import Figures

OVER_LOADS = ("normalized_latency", "jct", "attainment", "goodput", "throughput")
LADDER = (
    ("vllm-2023", "whole prompts in steps of their own, blocks on demand, the newest recomputed"),
    ("vllm", "prompts are cut and share the steps of outputs"),
    ("econoserve-d", "two queues, a reserve, prompts held back from filling the KV cache"),
    ("econoserve-sd", "exact allocation, groups of the same end"),
    ("econoserve-sdo", "ordering by deadline, KV held and length"),
    ("econoserve", "lending (KVC pipelining)"),
    ("econoserve (oracle)", "the true length instead of a prediction"),
    ("srtf", "for comparison: `vllm`, the shortest remaining work first"),
)
SHOWN = ("normalized_latency", "jct", "attainment", "throughput", "output_tokens_per_second")
INSIDE = ("kv_written", "kv_promised", "kv_lent", "forward_over_tfs", "allocation_failures", "preemptions")
LEAST_ATTAINMENT = 0.05  # a change of less says nothing
HEAD = """# EconoServe's experiments: tables

Written by `brim reproduce econoserve`; [the analysis](../econoserve.md) is not. Built from the published
abstract and summaries of arXiv 2411.06364, in virtual time."""
PACKING = """## What packing can give

Requests that fit at the same time on average: KV tokens over what a request holds while it draws. Written
beats exact by the last column at most, with perfect lending; blocks are not rounded."""
CLAIMS = """## Claims

Published: up to 4x the throughput of vLLM at the same latency, up to 91 % lower JCT, up to 91 % higher SLO
satisfaction. Each row is against `vllm-2023` in the same engine; below the two of EconoServe stands the best
of the others by JCT. Best: over all loads; of SLO attainment, where `vllm-2023` has 5 % or more."""
ENGINE = """## The engine of the day

- Host time a step: 5-13 ms in which the GPU waits for the CPU ([vLLM issue
  6854](https://github.com/vllm-project/vllm/issues/6854), July 2024); taken as {host:.0f} ms. For Llama-3-8B
  on H100, 38 % of the time was the GPU's, 29 % scheduling and preparing, 33 % the HTTP server
  ([vLLM v0.6.0](https://blog.vllm.ai/2024/09/05/perf-update.html), September 2024).
- Whole prompts in steps of their own, blocks on demand, recompute preemption: the row `vllm-2023`
  (arXiv 2309.06180).
- Maximum allocation: the row `orca` (OSDI 2022), of what users ask for at most.

The same host time is in every row, unless it says lean. The profile of OPT-13B holds it already: its constant
is 11 ms above the time in which an A100 reads the weights. Swapping and a host time for each request are left
out: no public figure was found that fits these models."""


def text(results: Figures) -> str:
    """Every table. Those of real time come last."""
    benches = results["benches"]
    parts = [HEAD, _run(results), PACKING, _packing(benches), CLAIMS, _claims(results["claims"])]
    parts.append(ENGINE.format(host=results["host_seconds_per_step"] * 1e3))
    for bench in benches:
        parts += _bench(bench, results["loads"])
    return "\n\n".join(parts) + "\n"


def _run(results: Figures) -> str:
    most = results["max_requests"]
    limit = f", but at most {most:,} requests" if most else ""
    return (
        f"Seed {results['seed']}; Poisson arrivals for {results['seconds'] / 3600:g} h of virtual time in "
        f"each point{limit}; the first {results['warm_up_share']:.0%} of the time is warm-up; latencies and "
        "attainment are of those that arrive after it, each served to its end; rates are of the same time. "
        "Points of sweeps run for a third of the time at most."
    )


def _packing(benches: Sequence[Figures]) -> str:
    rows = [
        [
            b["name"],
            f"{b['kv_tokens']:,}",
            f"{b['mean_input']:.0f} / {b['mean_output']:.0f}",
            *(cell(b["packing"][key]) for key in ("maximum", "exact", "written")),
            f"{b['packing']['gain']:.2f}x",
        ]
        for b in benches
    ]
    kinds = ("maximum allocation", "exact", "written", "written / exact")
    return table(["set-up", "KV tokens", "mean prompt / answer", *kinds], rows)


def _claims(claims: Sequence[Figures]) -> str:
    titles = ["set-up", "scheduler", *(f"requests/s at {name}" for name in claims[0]["throughput"])]
    titles += ["JCT at 1.0x, s", "best JCT", "SLO attainment at 1.0x", "best attainment"]
    return table(titles, [_claim(claim) for claim in claims])


def _claim(claim: Figures) -> list[str]:
    """Everything against vllm-2023."""
    ratios = [f"{held['beyond']}{held['ratio']:.2f}x" for held in claim["throughput"].values()]
    row = [claim["bench"], claim["label"], *ratios]
    for figure, form, better in (("jct", ".3g", min), ("attainment", ".1%", max)):
        changes = claim[figure]
        known = [c for c in changes if c["from"] >= LEAST_ATTAINMENT] or changes
        for found in (
            next(c for c in changes if c["load"] == 1.0),
            better(known, key=lambda c: c["change"] or 0),
        ):
            values = f"{cell(found['from'], form)} -> {cell(found['to'], form)}"
            row.append(f"{values} ({cell(found['change'], '+.0%')}) at {found['load']:g}x")
    return row


def _bench(bench: Figures, loads: Sequence[float]) -> list[str]:
    name = bench["name"]
    rates = [p for p in bench["points"] if p["group"] == "rates"]
    parts = [f"## {name}", _about(bench), f"![{name}]({picture(name)})"]
    parts += [over_loads(rates, key, loads) for key in OVER_LOADS]
    parts += ["### Rates held at equal latency", _held(bench)]
    for load in AT:
        if load in loads:
            parts += [f"### Ablation at {load:g}x", _ablation(bench, load)]
            parts += [f"### Switch by switch at {load:g}x", _ladder(bench, load)]
    if any(p["group"] == "engine" for p in bench["points"]):
        parts += ["### What if the host's time between steps were gone", _engines(bench)]
    return parts + _sweeps(bench) + _scheduling(bench)


def _about(bench: Figures) -> str:
    kind = "fitted" if bench["profile_kind"] == "fitted" else "analytic (roofline)"
    return (
        f"Profile `{bench['profile']}` ({kind} step times), KV cache of {bench['kv_tokens']:,} tokens, "
        f"prompt and answer up to {bench['max_model_len']:,} tokens, mean {bench['mean_input']:.0f} / "
        f"{bench['mean_output']:.0f}. Saturation (1.0x): {bench['saturation']:.3g} requests/s, what "
        f"vllm-2023 serves of a permanent backlog. {bench['seconds_at_saturation'] / 3600:.2g} h of arrivals "
        f"at 1.0x. sarathi's budget, the best of those tried there: {bench['sarathi_budget_tokens']} tokens."
    )


def _held(bench: Figures) -> str:
    named = limits(bench)
    labels = dict.fromkeys(p["label"] for p in bench["points"] if p["group"] == "rates")
    rows = []
    for label in labels:
        row = [label]
        for limit in named.values():
            held, base = rate_held(bench, label, limit), rate_held(bench, BASELINE, limit)
            row += [f"{held}", f"{held.beyond}{held.rate / base.rate:.2f}x"]
        rows.append(row)
    titles = ["requests/s"]
    for name, limit in named.items():
        titles += [f"{limit * 1e3:.3g} ms/token, {name}", "over vllm-2023"]
    return table(titles, rows)


def _point(bench: Figures, label: str, load: float) -> Figures | None:
    found = (
        p
        for p in bench["points"]
        if p["group"] in ("rates", "ablation") and p["label"] == label and p["load"] == load
    )
    return next(found, None)


def _ablation(bench: Figures, load: float) -> str:
    labels = [*ABLATION, *(f"{name} ({ORACLE})" for name in ABLATION)]
    found = [p for label in labels if (p := _point(bench, label, load))]
    return of_points(found, (*SHOWN, *INSIDE), lambda p: p["label"])


def _ladder(bench: Figures, load: float) -> str:
    base = _point(bench, BASELINE, load)
    assert base is not None
    rows = []
    for label, what in LADDER:
        if point := _point(bench, label, load):
            rows.append(
                [
                    f"`{label}`: {what}",
                    cell(point["jct"]),
                    f"{point['jct'] / base['jct'] - 1:+.0%}",
                    cell(point[LATENCY], ".3g", 1e3),
                    cell(point["attainment"], ".1%"),
                    cell(point["throughput"]),
                    cell(point["recomputed_per_request"]),
                ]
            )
    titles = [
        "",
        "JCT, s",
        "to vllm-2023",
        "ms/token",
        "SLO attainment",
        "requests/s",
        "recomputed / request",
    ]
    return table(titles, rows)


def _engines(bench: Figures) -> str:
    lean = [p for p in bench["points"] if p["group"] == "engine"]
    rows = []
    for load in dict.fromkeys(p["load"] for p in lean):
        day = {label: _point(bench, label, load) for label in (BASELINE, FULL)}
        by_policy = {p["policy"]: p for p in lean if p["load"] == load}
        base = day[BASELINE]
        assert base is not None
        for name in (BASELINE, FULL):
            for kind, point in (("day's", day[name]), ("lean", by_policy[name])):
                assert point is not None
                change = f"{point['jct'] / base['jct'] - 1:+.0%}"
                rows.append(
                    [
                        f"{load:g}x {name}, {kind} engine",
                        cell(point["jct"]),
                        change,
                        cell(point["throughput"]),
                    ]
                )
    note = (
        "Not a result: `econoserve` on the lean engine beside `vllm-2023` on the day's is what a comparison "
        "of two engines would show."
    )
    return note + "\n\n" + table(["", "JCT, s", "to vllm-2023, day's", "requests/s"], rows)


def _sweeps(bench: Figures) -> list[str]:
    parts = []
    for name in (*SWEEPS, "sarathi budget", "orca batch cap"):
        if found := [p for p in bench["points"] if p["group"] == name]:
            parts.append(f"### {name.replace('_', ' ')}, `{found[0]['policy']}`")
            keys = (*SHOWN[:4], "kv_written", "allocation_failures", "preemptions")
            found.sort(key=lambda p: (p["load"], p["value"]))
            parts.append(of_points(found, keys, lambda p: f"{p['value']:g} at {p['load']:g}x"))
    if found := [p for p in bench["points"] if p["group"] == "slo scale"]:
        parts += ["### SLO attainment by the SLO's scale, at 1.0x", _scales(found)]
    return parts


def _scales(found: Sequence[Figures]) -> str:
    scales = sorted({p["value"] for p in found})
    values = {(p["label"], p["value"]): p["attainment"] for p in found}
    labels = dict.fromkeys(p["label"] for p in found)
    rows = [[label, *(cell(values[label, scale], ".1%") for scale in scales)] for label in labels]
    return table(["scale", *(f"{scale:g}" for scale in scales)], rows)


def _scheduling(bench: Figures) -> list[str]:
    found = [p for p in bench["points"] if p["group"] == "scheduling"]
    if not found:
        return []
    rows = [
        [
            p["label"],
            f"{p['value']:,.0f}",
            cell(p["mean_running"], ".0f"),
            cell(p["scheduling_seconds_per_step"], ".0f", 1e6),
            cell(p["step_seconds"], ".3g", 1e3),
            cell(p["scheduling_share_of_busy"], ".2%"),
        ]
        for p in found
    ]
    titles = [
        "",
        "KV tokens",
        "outputs a step",
        "a decision, us (real)",
        "a step, ms (virtual)",
        "share of the time",
    ]
    return ["### Time of a decision, a permanent backlog waiting", table(titles, rows)]


def picture(bench_name: str) -> str:
    return f"{bench_name.replace(' ', '-')}.svg"
