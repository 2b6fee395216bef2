"""Many measurements at once, in processes of their own; the results come in the order they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from brim.simulation.results import Figures

Done = Callable[[], None]
P = TypeVar("P")


def measure_all(measure: Callable[[P], Figures], points: Sequence[P], jobs: int, done: Done) -> list[Figures]:
    """`done` is called after each point. The longest should stand first. The first error ends it all.

    `measure` must be a function of a module, for the other processes to find it.
    """
    if jobs == 1:
        return [_told(measure(point), done) for point in points]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(measure, point) for point in points]
        try:
            for future in as_completed(futures):
                future.result()
                done()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _told(result: Figures, done: Done) -> Figures:
    done()
    return result
