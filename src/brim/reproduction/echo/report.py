"""All tables of a run as one Markdown text."""

from __future__ import annotations

from collections.abc import Sequence

from brim.reproduction.echo.aims import CLAIMED_HIT_RATE, CLAIMED_RATIO, row_of
from brim.reproduction.echo.plan import BASELINE, FIXED, FULL, LADDER, ONLINE_LAST, OWN
from brim.reproduction.echo.points import satisfied
from brim.reproduction.markdown import cell, table
from brim.simulation.results import Figures

PICTURE = "echo.svg"
ORDER = (*LADDER, ONLINE_LAST, FIXED, OWN)
HEAD = """# Echo's experiments: tables

Written by `brim reproduce echo`; [the analysis](../echo.md) is not. Built from the published abstract and
summaries of arXiv 2504.03651, in virtual time; machines, loads and backlogs are our own choice."""
CLAIMS = f"""## Claims

Published: up to {CLAIMED_RATIO}x offline throughput at satisfied online SLOs; a hit rate of
{CLAIMED_HIT_RATE:.1%} on some offline work (told by a third party). Offline throughput is finished offline
requests/s; tokens found in the cache count nowhere as output. Bound: 1 / (1 - gain x f), what hits alone can
give in the same offline time, with gain = (hit of echo - hit of bs) / (1 - hit of bs) over prompt tokens, and
f the share of prompts in the offline work of bs, measured, each part priced at what it adds to a step that
fills the machine. A ratio above it comes from more time for offline work."""
AIMS = "## Aims"


def text(results: Figures) -> str:
    """Every table."""
    benches = results["benches"]
    parts = [HEAD, _run(results), CLAIMS, _claims(benches), f"![ratios]({PICTURE})", AIMS]
    parts.append(_aims(results["aims"]))
    for bench in benches:
        parts += [f"## {bench['name']}", _about(bench), _rows(bench), _tried(bench)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _run(results: Figures) -> str:
    load = (
        "Online load by the files given"
        if results["real_traces"]
        else "Online load SYNTHETIC, by the rate and the lengths of Azure's conversation trace"
    )
    return (
        f"Seed {results['seed']}; {results['warm_up_seconds']:g} s of warm-up and "
        f"{results['measured_seconds']:g} s measured in each point, virtual time; online requests that "
        f"arrive in it are served to their ends. TTFT target {results['ttft_seconds']} s. {load}. Documents "
        f"are SYNTHETIC and shaped as LooGLE's: {results['documents']} of them. Satisfied: attainment of all "
        f"targets at most {results['attainment_margin']:.1%} below that of the online load alone. "
        "The setting of `bs` and of `hygen` is the best tried on each set-up that satisfies."
    )


def _claims(benches: Sequence[Figures]) -> str:
    rows = []
    for bench in benches:
        base, echo = row_of(bench, BASELINE), row_of(bench, FULL)
        assert base is not None
        assert echo is not None
        online_only = bench["online_only"]["attainment"]
        rows.append(
            [
                bench["name"],
                cell(echo["ratio"], ".2f"),
                cell(echo["cache_bound"], ".2f"),
                cell(base["hit_rate"], ".1%"),
                cell(echo["hit_rate"], ".1%"),
                cell(bench["ideal_hit_rate"], ".1%"),
                cell(base["prompt_share"], ".2f"),
                *(f"{value:.2%}" for value in (online_only, base["attainment"], echo["attainment"])),
                "yes" if satisfied(echo["attainment"], online_only) else "NO",
            ]
        )
    titles = ["set-up", "echo / bs", "bound", "hit rate of bs", "of echo", "of an endless cache", "f"]
    titles.append("attainment alone")
    return table([*titles, "bs", "echo", "satisfied"], rows)


def _aims(aims: Sequence[Figures]) -> str:
    rows = [[a["bench"], a["aim"], a["measured"], "pass" if a["passed"] else "MISS"] for a in aims]
    return table(["set-up", "aim", "measured", ""], rows)


def _about(bench: Figures) -> str:
    alone = bench["online_only"]
    return (
        f"Online {bench['online_rate']:g} requests/s ({alone['online_requests']} judged; alone TTFT p99 "
        f"{alone['ttft_p99']:.2f} s, TPOT p99 {alone['tpot_p99'] * 1e3:.0f} ms, "
        f"{alone['kv_written']:.1%} of {bench['kv_tokens']:,} KV tokens). Working sets are in the "
        f"{bench['kv_tokens_left']:,} tokens that it leaves."
    )


def _rows(bench: Figures) -> str:
    found = [row for label in ORDER if (row := row_of(bench, label))]
    titles = ["", "setting", "offline requests/s", "over bs", "bound", "output tokens/s", "hit rate"]
    titles += ["offline work / time", "attainment", "TTFT p99, s", "TPOT p50 / p99, ms", "preempted"]
    titles += ["recomputed tokens", "second half / first", "backlog left"]
    return table(titles, [_row(row) for row in found])


def _row(row: Figures) -> list[str]:
    return [
        f"`{row['label']}`",
        cell(row.get("value"), "g"),
        cell(row["rate"], ".3f"),
        cell(row["ratio"], ".2f"),
        cell(row["cache_bound"], ".2f"),
        cell(row["output_tokens_per_second"], ".1f"),
        cell(row["hit_rate"], ".1%"),
        cell(row["work_share"], ".2f"),
        cell(row["attainment"], ".2%"),
        cell(row["ttft_p99"], ".2f"),
        f"{cell(row['tpot_p50'], '.1f', 1e3)} / {cell(row['tpot_p99'], '.1f', 1e3)}",
        cell(row["preempted"], "d"),
        cell(row["recomputed_tokens"], "d"),
        cell(row["second_half_over_first"], ".2f"),
        cell(row["backlog_left"], "d") if row["backlog_left"] else "EMPTY",
    ]


def _tried(bench: Figures) -> str:
    lines = []
    for row in bench["rows"]:
        if "tried" in row:
            tries = sorted(row["tried"], key=lambda one: one["value"])
            told = ", ".join(f"{t['value']:g}: {t['rate']:.3f}/s at {t['attainment']:.2%}" for t in tries)
            lines.append(f"Tried of `{row['label']}`: {told}.")
    return "\n".join(lines)
