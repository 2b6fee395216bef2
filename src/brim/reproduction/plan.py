"""What is measured: which schedulers, at which loads, with which settings swept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from brim.reproduction.benches import BENCHES, LEAN, Bench
from brim.reproduction.points import HISTORY, ORACLE, REALISTIC, Point, Row
from brim.simulation.bound import NAME as BOUND

EXACT = (("length_padding", 0.0),)  # nothing to pad where the length is known
FULL, BASELINE = "econoserve", "vllm-2023"
ABLATION = ("econoserve-d", "econoserve-sd", "econoserve-sdo", FULL)
OTHERS = (BASELINE, "vllm", "sarathi", "orca", "fastserve")
PREDICTING = ("srtf", "s3", "multires", "brim")
AT = (1.0, 1.25)  # loads at which the ablation and the decomposition are told
SCALES = (0.5, 1.0, 1.5, 2.0, 2.5)
SWEEPS: dict[str, tuple[float, ...]] = {
    "length_padding": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
    "reserve_share": (0.0, 0.01, 0.03, 0.05, 0.1),
    "loan_buffer_tokens": (0, 4, 8, 16, 32, 64),
    "prompt_floor_tokens": (64, 128, 256, 512, 1024, 2048),
    "target_forward_tokens": (512, 1024, 2048),
}
BUDGETS = (128, 256, 512, 1024, 2048)  # sarathi's, tokens a step
BATCH_CAPS = (8, 32, 512)  # orca's, requests a step
KV_SIZES = (1, 4, 16)  # times the bench's, for the time of a decision


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run. Of each point `seconds` of arrivals, fewer where that is over `max_requests`."""

    benches: Sequence[Bench]
    loads: tuple[float, ...] = (0.5, 0.7, 0.9, 1.0, 1.1, 1.25, 1.5)
    seconds: float = 3600.0
    max_requests: int = 0  # 0: no limit
    backlog: int = 4000  # requests at once, for the saturation
    seed: int = 0
    data: Path | None = None
    quick: bool = False

    def seconds_at(self, rate: float) -> float:
        return min(self.seconds, self.max_requests / rate) if self.max_requests else self.seconds


def full_plan(hours: float, max_requests: int, seed: int, data: Path | None, only: Sequence[str]) -> Plan:
    """Benches whose names contain one of `only`; those of a file where its folder is given."""
    benches = [b for b in BENCHES if (data is not None or not b.file)]
    benches = [b for b in benches if not only or any(part in b.name for part in only)]
    return Plan(benches, seconds=hours * 3600, max_requests=max_requests, seed=seed, data=data)


def quick_plan(seed: int) -> Plan:
    """Two minutes: one bench, minutes of virtual time, the directions only."""
    return Plan(BENCHES[:1], (0.7, 1.0, 1.25), 600.0, backlog=800, seed=seed, quick=True)


def saturation_point(plan: Plan, bench: Bench) -> Point:
    return Point(bench, Row(BASELINE), count=plan.backlog, seed=plan.seed, data=plan.data, group="saturation")


def budget_points(plan: Plan, bench: Bench, saturation: float) -> list[Point]:
    """From which sarathi's budget is taken."""
    budgets = BUDGETS[1:4] if plan.quick else BUDGETS
    rows = [(Row("sarathi", budget_tokens=n), n) for n in budgets]
    return [_at(plan, bench, row, 1.0, saturation, "sarathi budget", n) for row, n in rows]


def points(plan: Plan, bench: Bench, saturation: float, budget: int) -> list[Point]:
    """All others, the longest first."""
    made = _over_rates(plan, bench, saturation, budget) + _ablation(plan, bench, saturation)
    if not plan.quick:
        made += _engines(plan, bench, saturation)
    if bench is plan.benches[0] and not plan.quick:
        made += _sweeps(plan, bench, saturation) + _scales(plan, bench, saturation, budget)
    if bench is plan.benches[0]:
        made += _scheduling(plan, bench)
    return sorted(made, key=lambda point: -point.load)


def main_rows(plan: Plan, budget: int) -> list[Row]:
    rows = [Row(name, budget_tokens=budget if name == "sarathi" else 0) for name in OTHERS]
    rows += [Row(name, REALISTIC) for name in (*PREDICTING, *ABLATION)]
    rows += [Row("srtf", ORACLE, EXACT), Row(FULL, ORACLE, EXACT), Row(FULL, HISTORY), Row(BOUND)]
    left_out = {"orca", "fastserve", "multires"} if plan.quick else set()
    return [row for row in rows if row.policy not in left_out]


def _over_rates(plan: Plan, bench: Bench, saturation: float, budget: int) -> list[Point]:
    pairs = product(main_rows(plan, budget), plan.loads)
    return [_at(plan, bench, row, load, saturation, "rates") for row, load in pairs]


def _ablation(plan: Plan, bench: Bench, saturation: float) -> list[Point]:
    """With the true lengths; the realistic rows and the whole are among the rates."""
    pairs = product(ABLATION[:-1], AT)
    return [_at(plan, bench, Row(name, ORACLE, EXACT), load, saturation, "ablation") for name, load in pairs]


def _engines(plan: Plan, bench: Bench, saturation: float) -> list[Point]:
    """On an engine without the host's time between steps, at the same rates."""
    rows = [Row(BASELINE, engine=LEAN), Row(FULL, REALISTIC, engine=LEAN)]
    loads = [load for load in plan.loads if load >= 1.0]
    return [_at(plan, bench, row, load, saturation, "engine") for row, load in product(rows, loads)]


def _sweeps(plan: Plan, bench: Bench, saturation: float) -> list[Point]:
    """A third of the time each: there are many, and their differences are large."""
    part = replace(plan, seconds=plan.seconds / 3)
    made = [
        _at(part, bench, Row(FULL, REALISTIC, ((name, value),)), load, saturation, name, value)
        for name, values in SWEEPS.items()
        for value in values
        for load in AT
    ]
    orca = [Row("orca", settings=(("max_num_seqs", cap),)) for cap in BATCH_CAPS]
    return made + [
        _at(part, bench, row, 0.5, saturation, "orca batch cap", cap)
        for row, cap in zip(orca, BATCH_CAPS, strict=True)
    ]


def _scales(plan: Plan, bench: Bench, saturation: float, budget: int) -> list[Point]:
    names = {BASELINE, "vllm", "sarathi", "srtf", FULL}
    rows = [row for row in main_rows(plan, budget) if row.policy in names and row.lengths != HISTORY]
    return [
        replace(_at(plan, bench, row, 1.0, saturation, "slo scale", scale), slo_scale=scale)
        for row, scale in product(rows, SCALES)
    ]


def _scheduling(plan: Plan, bench: Bench) -> list[Point]:
    """Real time of a decision where ever more requests run, no step skipped."""
    made = []
    sizes = KV_SIZES[:2] if plan.quick else KV_SIZES
    for name, times in product((BASELINE, "multires", FULL), sizes):
        tokens = (bench.kv_tokens or bench.load_profile().kv_tokens()) * times
        row = Row(name, "" if name == BASELINE else REALISTIC, (("max_num_seqs", 2048),))
        large = replace(bench, kv_tokens=tokens)
        count = (40 if plan.quick else 150) * times
        made.append(Point(large, row, count=count, seed=plan.seed, skip=False, data=plan.data))
    return [replace(point, group="scheduling", value=point.bench.kv_tokens or 0) for point in made]


def _at(
    plan: Plan, bench: Bench, row: Row, load: float, saturation: float, group: str, value: float | str = 0.0
) -> Point:
    rate = load * saturation
    return Point(
        bench,
        row,
        rate,
        plan.seconds_at(rate),
        seed=plan.seed,
        data=plan.data,
        group=group,
        value=value,
        load=load,
    )
