"""Tasks of many kinds at once, in as many processes as there are, and the results by kind again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from brim.planning.question import Kind
from brim.planning.tasks import Task, do
from brim.simulation.processes import measure_all
from brim.simulation.results import Figures

Tell = Callable[[str, int], Callable[[], None]]  # what is done, and how many; to be called after each
Measure = Callable[[str, Mapping[Kind, Sequence[Task]]], dict[Kind, list[Figures]]]


def measuring(jobs: int, tell: Tell) -> Measure:
    """Results stand in the order of their tasks; `what` is told of is done."""

    def measure(what: str, tasks: Mapping[Kind, Sequence[Task]]) -> dict[Kind, list[Figures]]:
        every = [task for of_kind in tasks.values() for task in of_kind]
        results = iter(measure_all(do, every, jobs, tell(what, len(every))))
        return {kind: [next(results) for _ in of_kind] for kind, of_kind in tasks.items()}

    return measure
