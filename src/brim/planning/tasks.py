"""What one process measures at a time: a search for the least replicas, a scaled cluster, a filled one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle

from brim.planning.question import Aim, Kind, Load, cluster
from brim.simulation.cluster.figures import figures
from brim.simulation.cluster.run import simulate_cluster
from brim.simulation.cluster.setup import Scaling
from brim.simulation.least import least_that
from brim.simulation.results import Figures
from brim.workloads.trace import TraceRequest


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
            setup = cluster(self.kind, self.load, self.aim, replicas)
            tried[replicas] = figures(simulate_cluster(self.load.trace, setup))
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
    """A cluster that scales by its load, with this target of requests for each replica."""

    kind: Kind
    load: Load
    aim: Aim
    scaling: Scaling
    label: str = "scaled"

    def do(self) -> Figures:
        setup = replace(cluster(self.kind, self.load, self.aim, self.scaling.least), scaling=self.scaling)
        found = figures(simulate_cluster(self.load.trace, setup))
        return {
            "label": self.label,
            "profile": self.kind.profile,
            "target": self.scaling.target,
            "least": self.scaling.least,
            "attainment": attainment(found),
            "run": found,
        }


@dataclass(frozen=True, slots=True)
class Filled:
    """As many replicas as are given, and offline requests whenever there is room."""

    kind: Kind
    load: Load
    aim: Aim
    replicas: int
    most: int  # replicas that may be tried until the aim is reached
    label: str = "filled"

    def do(self) -> Figures:
        for replicas in range(self.replicas, self.most + 1):
            found = self._run(replicas)
            if attainment(found) >= self.aim.attainment:
                break
        return {
            "label": self.label,
            "profile": self.kind.profile,
            "replicas": replicas,
            "attainment": attainment(found),
            "run": found,
        }

    def _run(self, replicas: int) -> Figures:
        setup = cluster(self.kind, self.load, self.aim, replicas)
        setup = replace(setup, spare_until_ns=self.load.span_ns)
        spare = (TraceRequest(0, *lengths) for lengths in cycle(self.load.spare))
        return figures(simulate_cluster(self.load.trace, setup, spare=spare))


Task = Search | Scaled | Filled


def do(task: Task) -> Figures:
    """For a process of its own. An error tells the task."""
    try:
        return task.do()
    except Exception as exc:
        exc.add_note(f"while planning for {task.kind}")
        raise


def attainment(run: Figures) -> float:
    """Of the online requests that count."""
    return float(run["online"]["slo_attainment"] or 0.0)
