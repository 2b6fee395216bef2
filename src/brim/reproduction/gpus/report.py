"""The figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator

from brim.reproduction.gpus.experiment import DISTSERVE, POLICIES
from brim.reproduction.markdown import table
from brim.simulation.results import Figures


def text(results: Figures) -> str:
    return "\n\n".join(_parts(results)) + "\n"


def _parts(results: Figures) -> Iterator[str]:
    yield "# GPUs against DistServe: tables"
    yield (
        f"Poisson arrivals over {results['seconds']:g} s of virtual time, seed {results['seed']}; "
        "synthetic lengths of the stated averages. In brackets replicas times GPUs of each; of DistServe "
        "those for prompts first."
    )
    yield "## The published row: vLLM of 2023 on one A100, OPT-13B"
    titles = ("requests/s", "published", "measured", "TTFT met", "TPOT met")
    yield table(titles, [_row(one) for one in results["baseline"]])
    for bench in results["benches"]:
        yield f"## {bench['name']}"
        yield (
            f"`{bench['profile']}`, {bench['rate']:g} requests/s of {bench['mean_input']:g} input and "
            f"{bench['mean_output']:g} output tokens; TTFT {bench['ttft_seconds']:g} s, TPOT "
            f"{bench['tpot_seconds']:g} s; {bench['kv_tokens']} tokens of KV cache a replica."
        )
        yield _least(results, bench["name"])


def _row(one: Figures) -> list[str]:
    names = ("published", "attainment", "ttft_attainment", "tpot_attainment")
    return [f"{one['rate']:g}", *(f"{one[name]:.0%}" for name in names)]


def _least(results: Figures, bench: str) -> str:
    mine = [one for one in results["least"] if one["bench"] == bench]
    goals = sorted({one["goal"] for one in mine})
    by_key = {(one["goal"], one["policy"]): one for one in mine}
    titles = [
        "",
        *(f"GPUs for {goal:.0%}" for goal in goals),
        *(f"against DistServe, {g:.0%}" for g in goals),
    ]
    rows = []
    for policy in (DISTSERVE, *POLICIES):
        gpus = [_gpus(by_key[goal, policy]) for goal in goals]
        changes = [_change(by_key[goal, policy], by_key[goal, DISTSERVE]) for goal in goals]
        rows.append([policy, *gpus, *changes])
    return table(titles, rows)


def _gpus(one: Figures) -> str:
    if one["gpus"] is None:
        return "none holds"
    sides = zip(one["replicas"], one["gpus_each"], strict=True)
    return f"{one['gpus']} ({' + '.join(f'{count} x {each}' for count, each in sides)})"


def _change(one: Figures, distserve: Figures) -> str:
    if one["policy"] == DISTSERVE or one["gpus"] is None or distserve["gpus"] is None:
        return ""
    return f"{one['gpus'] / distserve['gpus'] - 1:+.0%}"
