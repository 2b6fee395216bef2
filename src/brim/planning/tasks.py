"""What one process measures at a time: a search for the least replicas, a scaled cluster, a filled one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean

from brim.planning.backlog import Run, endless
from brim.planning.demand import work_tokens
from brim.planning.question import Aim, Kind, Load, cluster
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.cluster.setup import ClusterSetup, Scaling
from brim.simulation.least import least_that
from brim.simulation.results import Figures
from brim.workloads.trace import NANOSECONDS


@dataclass(frozen=True, slots=True)
class Search:
    """The least number of replicas that reach the aim; `near` is where to begin, `label` what it is for."""

    kind: Kind
    load: Load
    aim: Aim
    near: int
    most: int
    label: str = ""

    def do(self) -> Figures:
        tried: dict[int, Figures] = {}

        def holds(replicas: int) -> bool:
            tried[replicas] = simulated(self.load, cluster(self.kind, self.load, self.aim, replicas))
            return attainment(tried[replicas]) >= self.aim.attainment

        least = least_that(holds, self.near, self.most)
        return {
            "label": self.label,
            "policy": self.kind.policy,
            "profile": self.kind.profile,
            "replicas": least,
            "attempts": {n: attainment(tried[n]) for n in sorted(tried)},
            "run": tried[least] if least is not None else tried[max(tried)],
        }


@dataclass(frozen=True, slots=True)
class Scaled:
    """A cluster that scales by its load. What arrives before `load.measured_from_ns` warms it up.

    Replicas count from when they are started, for from then on they cost.
    It stands for `requests` of the trace and `seconds` of its time; `rate` is their work a second.
    """

    kind: Kind
    load: Load
    aim: Aim
    scaling: Scaling
    requests: int
    seconds: float
    rate: float = 0.0
    start_seconds: float = 0.0
    label: str = "scaled"

    def do(self) -> Figures:
        setup = replace(cluster(self.kind, self.load, self.aim, 1), scaling=self.scaling)
        found = simulated(self.load, setup)
        counted = inside(found["windows"], self.load)
        return {
            "label": self.label,
            "target": self.scaling.target,
            "requests": self.requests,
            "seconds": self.seconds,
            "rate": self.rate,
            "start_seconds": self.start_seconds,
            "simulated_requests": found["online"]["requests"],
            "attainment": attainment(found),
            "replicas_mean": fmean(window["replicas_mean"] for window in counted),
            "replicas_peak": ceil(max(window["replicas_mean"] for window in counted) - 1e-9),
            "windows": [{name: w[name] for name in ("until_seconds", "replicas_mean")} for w in counted],
        }


@dataclass(frozen=True, slots=True)
class Filled:
    """So many replicas, and offline requests whenever there is room."""

    kind: Kind
    load: Load
    aim: Aim
    replicas: int
    label: str = "filled"

    def do(self) -> Figures:
        setup = cluster(self.kind, self.load, self.aim, self.replicas)
        setup = replace(setup, spare_until_ns=self.load.span_ns)
        found = simulated(self.load, setup, endless(self.load.spare))
        return {
            "label": self.label,
            "profile": self.kind.profile,
            "replicas": self.replicas,
            "attainment": attainment(found),
            **filled_figures(found, self.load),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """A stretch of the trace on so many replicas; it stands for `requests` of the trace."""

    kind: Kind
    load: Load
    aim: Aim
    replicas: int
    requests: int
    start_seconds: float
    label: str = "checked"

    def do(self) -> Figures:
        found = simulated(self.load, cluster(self.kind, self.load, self.aim, self.replicas))
        return {
            "label": self.label,
            "start_seconds": self.start_seconds,
            "requests": self.requests,
            "simulated_requests": found["online"]["requests"],
            "attainment": attainment(found),
        }


Task = Search | Scaled | Filled | Checked


def do(task: Task) -> Figures:
    """For a process of its own. An error tells the task."""
    try:
        return task.do()
    except Exception as exc:
        exc.add_note(f"while planning for {task.kind}")
        raise


def simulated(load: Load, setup: ClusterSetup, spare: Iterable[Run] = ()) -> Figures:
    """All figures of the load on this cluster."""
    return figures(simulate_cluster(load.trace, setup, spare=spare))


def attainment(run: Figures) -> float:
    """Of the online requests that count."""
    return float(run["online"]["slo_attainment"] or 0.0)


def filled_figures(run: Figures, load: Load) -> Figures:
    """Of one stretch with more offline work than fits: by its load, what is done beside it.

    Tokens are input and output of requests. What is drawn before the stretch has warmed up, and after the
    last arrival, while nothing new is begun, is left out.
    """
    span, counted = load.span_ns / NANOSECONDS, inside(run["windows"], load)
    offline = [request for run in load.spare for request in run]
    outputs = sum(max(r.output_tokens, 1) for r in offline)
    per_output = sum(r.input_tokens for r in offline) / outputs + 1
    warm_ns = load.measured_from_ns
    work = sum(work_tokens(r) for r in load.trace.requests if r.arrival_ns >= warm_ns)
    return {
        "rate": work * NANOSECONDS / max(load.span_ns - warm_ns, 1),
        "tokens_per_second": per_output * fmean(w["offline_tokens_per_second"] for w in counted),
        "busy_share": fmean(w["busy_share"] or 0.0 for w in counted),
        "simulated_seconds": span,
    }


def inside(windows: Sequence[Figures], load: Load) -> Sequence[Figures]:
    """Those between the warm-up and the last arrival; all where the load is shorter than one."""
    warm, span = load.measured_from_ns / NANOSECONDS, load.span_ns / NANOSECONDS
    return [w for w in windows if warm < w["until_seconds"] <= span] or windows
