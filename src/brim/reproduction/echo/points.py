"""One measurement: a scheduler, online load and a backlog on a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from brim.core.config import SchedulerConfig
from brim.core.kvcache.eviction import Evicting
from brim.core.policies.named import named
from brim.core.policy import Policy
from brim.core.request import TaskClass
from brim.profiles.loader import Profile, load
from brim.reproduction.echo.accounts import Accounts
from brim.reproduction.echo.offline import Source, backlog
from brim.reproduction.echo.online import online_load
from brim.simulation.machine import Machine
from brim.simulation.results import Figures, figures
from brim.simulation.run import Run, Setup, simulate
from brim.simulation.targets import Targets
from brim.workloads.trace import NANOSECONDS, Trace

BLOCK_SIZE = 16
MAX_MODEL_LEN = 131_072
MAX_OUTPUT_TOKENS = 1024
TTFT_SECONDS = 1
MARGIN = 0.005  # of attainment: so much less than online-only is still satisfied
ONLINE_ONLY = "online only"


@dataclass(frozen=True, slots=True)
class Bench:
    """`offline` "": nothing beside the online load."""

    profile: str
    online: str
    offline: str
    tpot_ms: int

    @property
    def name(self) -> str:
        return f"{self.offline}; {self.online}, {self.profile}, TPOT {self.tpot_ms} ms"

    def alone(self) -> Bench:
        return replace(self, offline="")


@dataclass(frozen=True, slots=True)
class Row:
    """A scheduler as it is compared. `setting` is tuned over `values`, from the place `start` on."""

    label: str
    policy: str
    setting: str = ""
    values: tuple[float, ...] = ()
    start: int = 0
    online_last: bool = False  # blocks that finished online requests leave are evicted last


@dataclass(frozen=True, slots=True)
class Point:
    """`kv_tokens` of the cache are what online requests leave, `attainment` is that of online-only."""

    bench: Bench
    row: Row
    rate: float
    warm_up_s: float
    measured_s: float
    documents: int
    seed: int
    data: Path | None
    kv_tokens: int = 0
    attainment: float = 0.0

    @property
    def source(self) -> Source:
        return Source(self.kv_tokens, self.documents, self.seed, self.data)


def measure(point: Point) -> Figures:
    """The figures of a point, flat, those of the best value where one is tuned. An error tells the point."""
    try:
        return _tuned(point) if point.row.values else _measured(point, {})
    except Exception as exc:
        exc.add_note(f"while measuring {point}")
        raise


def satisfied(attainment: float, online_only: float) -> bool:
    return attainment >= online_only - MARGIN


def tuned(
    values: Sequence[float], start: int, run: Callable[[float], Figures], online_only: float
) -> Figures:
    """The run with the most offline requests/s of those that satisfy the online SLOs, and all `tried`.

    Looks for the largest of the rising `values` that satisfies, in growing strides from the place `start`
    on, then by halving; where none does, the smallest stands.
    """
    tried = []
    good, bad = -1, len(values)  # places of a value that satisfies and of one that does not
    place, stride = start, 1
    while bad - good > 1:
        tried.append(run(values[place]) | {"value": values[place]})
        if satisfied(tried[-1]["attainment"], online_only):
            good = place
        else:
            bad = place
        if good >= 0 and bad < len(values):
            place = (good + bad) // 2
        else:
            place = min(good + stride, len(values) - 1) if good >= 0 else max(bad - stride, 0)
            stride *= 2
    fine = [one for one in tried if satisfied(one["attainment"], online_only)]
    best = max(fine, key=lambda one: one["rate"]) if fine else min(tried, key=lambda one: one["value"])
    return best | {"tried": [{key: one[key] for key in ("value", "rate", "attainment")} for one in tried]}


def _tuned(point: Point) -> Figures:
    row = point.row
    return tuned(
        row.values, row.start, lambda value: _measured(point, {row.setting: value}), point.attainment
    )


def _measured(point: Point, settings: dict[str, float]) -> Figures:
    profile = load(point.bench.profile)
    machine = Machine(profile.step_time, profile.target_forward_tokens)
    trace, setup = _trace(point), _setup(point, profile, machine, settings)
    assert setup.measure_until_ns is not None
    accounts = Accounts(trace, machine, setup.measure_from_ns, setup.measure_until_ns)
    run = simulate(trace, setup, observe=accounts.observe)
    about = {"label": point.row.label, "policy": point.row.policy}
    return about | _online(run) | _offline(run, accounts)


def _trace(point: Point) -> Trace:
    """Both on one clock. Online requests share no prefix, so the block ids of the others stay."""
    online = online_load(
        point.bench.online, point.rate, point.warm_up_s, point.measured_s, point.seed, point.data
    )
    if not point.bench.offline:
        return online
    work = backlog(point.bench.offline, point.source)
    requests = tuple(chain(online.requests, work.requests))
    return replace(work, requests=requests, has_arrivals=True, note=f"{online.note}; {work.note}")


def _setup(point: Point, profile: Profile, machine: Machine, settings: dict[str, float]) -> Setup:
    config = SchedulerConfig(
        num_blocks=profile.kv_tokens() // BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        max_model_len=MAX_MODEL_LEN,
        policy=point.row.policy,
        target_forward_tokens=profile.target_forward_tokens,
        **settings,  # type: ignore[arg-type]
    )
    end_s = point.warm_up_s + point.measured_s
    return Setup(
        config,
        machine,
        _policy(config, point.row),
        Targets(ttft_ns=TTFT_SECONDS * NANOSECONDS, tpot_ns=point.bench.tpot_ms * 1_000_000),
        MAX_OUTPUT_TOKENS,
        measure_from_ns=round(point.warm_up_s * NANOSECONDS),
        measure_until_ns=round(end_s * NANOSECONDS),
        # Those who came last have time for the longest answer, or they would count as missed.
        stop_ns=round((end_s + MAX_OUTPUT_TOKENS * point.bench.tpot_ms / 1000 + TTFT_SECONDS) * NANOSECONDS),
    )


def _policy(config: SchedulerConfig, row: Row) -> Policy:
    policy = named(config)
    return replace(policy, evicting=Evicting.BY_REUSE_ONLINE_LAST) if row.online_last else policy


def _online(run: Run) -> Figures:
    whole = figures(run)
    own = whole["online"]
    return {
        "online_requests": own["requests"],
        "attainment": own["slo_attainment"],
        "ttft_p99": own["ttft_seconds"]["p99"],
        "tpot_p50": own["tpot_seconds"]["p50"],
        "tpot_p99": own["tpot_seconds"]["p99"],
        "busy": whole["compute"]["busy_share"],
        "kv_written": whole["kv"]["written_mean"],
        "steps": whole["steps"],
        "scheduling_seconds_per_step": whole["scheduling_seconds_per_step"],
        "wall_seconds": whole["simulation_wall_seconds"],
    }


def _offline(run: Run, accounts: Accounts) -> Figures:
    seconds = (run.end.now_ns - run.start.now_ns) / NANOSECONDS
    drawn = run.end.output_tokens[TaskClass.OFFLINE] - run.start.output_tokens[TaskClass.OFFLINE]
    own = accounts.figures()
    return own | {
        "rate": own["finished"] / seconds,
        "output_tokens_per_second": drawn / seconds,
        "work_share": own.pop("work_seconds") / seconds,
    }
