"""What is measured: which schedulers, on which machines, under which online load, with which backlog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brim.reproduction.echo.offline import CONTROL, WORKS
from brim.reproduction.echo.online import RATES_FILE
from brim.reproduction.echo.points import ONLINE_ONLY, Bench, Point, Row
from brim.simulation.results import Figures

A100, H100 = "a100-llama-3-8b", "h100-llama-3-8b"
AZURE, DIURNAL = "azure", "diurnal"
RATES = {A100: 2.0, H100: 4.0}  # online requests/s
SHUFFLED = "documents, shuffled"
BASELINE, FULL, ONLINE_LAST, FIXED = "bs", "echo", "echo, online evicted last", "hygen"
OWN = "brim"  # this project's own
LADDER = (BASELINE, "bs-e", "bs-e-s", FULL)
# of bs, offline in a step
TOKENS = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024, 1536)
QUICK_TOKENS = (128, 192, 256)
LIMIT_SHARES = (0.7, 0.85, 1.0)  # of hygen's step, of the TPOT target


@dataclass(frozen=True, slots=True)
class Plan:
    """Each point runs for `warm_up_s` + `measured_s` of virtual time. `whole`: benches with all rows."""

    benches: Sequence[Bench]
    whole: frozenset[Bench]
    warm_up_s: float = 80.0
    measured_s: float = 240.0
    documents: int = 776
    seed: int = 0
    data: Path | None = None
    quick: bool = False


def full_plan(measured_s: float, seed: int, data: Path | None, only: Sequence[str]) -> Plan:
    """Benches whose names contain one of `only`; those of a file where it is."""
    whole = [
        Bench(A100, AZURE, SHUFFLED, 50),
        Bench(A100, AZURE, CONTROL, 50),
        Bench(A100, AZURE, "ShareGPT sessions", 50),
    ]
    short = [
        Bench(A100, AZURE, "documents, working set 2x", 50),
        Bench(A100, AZURE, "documents, file order", 50),
        Bench(A100, AZURE, SHUFFLED, 100),
        Bench(A100, DIURNAL, SHUFFLED, 50),
        Bench(H100, AZURE, SHUFFLED, 50),
        Bench(A100, AZURE, "LooGLE sample, shuffled", 50),
        Bench(A100, AZURE, "documents, working set 10x", 50),
        Bench(A100, AZURE, "documents, working set 1x", 50),
        Bench(A100, AZURE, "documents, working set 5x", 50),
        Bench(A100, DIURNAL, CONTROL, 50),
        Bench(A100, AZURE, CONTROL, 100),
        Bench(H100, AZURE, CONTROL, 50),
        Bench(H100, AZURE, SHUFFLED, 100),
    ]
    benches = [
        bench
        for bench in (*whole, *short)
        if WORKS[bench.offline].is_there(data)
        and (bench.online != DIURNAL or (data is not None and (data / RATES_FILE).exists()))
        and (not only or any(part in bench.name for part in only))
    ]
    return Plan(benches, frozenset(whole), measured_s=measured_s, seed=seed, data=data)


def quick_plan(seed: int, data: Path | None) -> Plan:
    """Three minutes: documents in mixed order and the control, fewer documents, the directions only."""
    benches = [Bench(A100, AZURE, offline, 50) for offline in (SHUFFLED, CONTROL)]
    return Plan(benches, frozenset(), 60.0, 180.0, documents=200, seed=seed, data=data, quick=True)


def alone_points(plan: Plan) -> list[Point]:
    """The online load without any offline work, once for each that there is."""
    benches = dict.fromkeys(bench.alone() for bench in plan.benches)
    return [_point(plan, bench, Row(ONLINE_ONLY, BASELINE)) for bench in benches]


def points(
    plan: Plan, bench: Bench, alone: Figures, kv_tokens: int, step_tokens: float | None = None
) -> list[Point]:
    """All rows of a bench, those that are tuned first: they take longest.

    `step_tokens` of bs were best on a bench like this one: its tuning starts from them.
    """
    made = [
        _point(plan, bench, row, kv_tokens, alone["attainment"]) for row in _rows(plan, bench, step_tokens)
    ]
    return sorted(made, key=lambda point: -len(point.row.values))


def _rows(plan: Plan, bench: Bench, step_tokens: float | None) -> list[Row]:
    tokens = QUICK_TOKENS if plan.quick else TOKENS
    start = len(tokens) // 2 if step_tokens is None else tokens.index(int(step_tokens))
    rows = [Row(BASELINE, BASELINE, "offline_step_tokens", tokens, start), Row(FULL, FULL)]
    if plan.quick or bench in plan.whole:
        rows += [Row(name, name) for name in LADDER[1:-1]]
    if bench in plan.whole:
        limits = tuple(round(share * bench.tpot_ms, 1) for share in LIMIT_SHARES)
        rows += [Row(ONLINE_LAST, FULL, online_last=True), Row(OWN, OWN)]
        rows.append(Row(FIXED, FIXED, "step_limit_ms", limits, len(limits) - 1))
    return rows


def _point(plan: Plan, bench: Bench, row: Row, kv_tokens: int = 0, attainment: float = 0.0) -> Point:
    return Point(
        bench,
        row,
        RATES[bench.profile],
        plan.warm_up_s,
        plan.measured_s,
        plan.documents,
        plan.seed,
        plan.data,
        kv_tokens,
        attainment,
    )
