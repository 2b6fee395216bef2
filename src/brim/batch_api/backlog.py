"""When the jobs under way will be done, from the lines that ended of late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from brim.core.estimators.completion import Completion, CompletionForecast


@dataclass(frozen=True, slots=True)
class Backlog:
    """Lines of jobs in progress that have no result, and when they will all have one, where that is known."""

    lines: int
    completion: Completion | None


class BacklogWatch:
    """Told from time to time how many lines have ended, and how many are left of each job.

    Jobs take places in the window in the order in which they expire, and inside it the scheduler decides. So
    a job ends at the earliest as if it were alone, at the latest after all before it and a window of others.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._forecast = CompletionForecast()
        self._ended = 0
        self._left: Mapping[str, int] = {}

    def observe(self, now_ns: int, ended: int, left: Mapping[str, int]) -> None:
        """`ended` lines since the start; `left` by job, in order of their turn."""
        self._forecast.observe(now_ns, ended - self._ended, sum(left.values()))
        self._ended, self._left = ended, left

    def whole(self) -> Backlog:
        """Of all jobs, when they were last told of."""
        lines = sum(self._left.values())
        return Backlog(lines, self._forecast.expect(lines))

    def of(self, batch_id: str) -> Completion | None:
        """When this job will have all its results; None where that is not known, or it is not in progress."""
        ahead = 0
        for other, lines in self._left.items():
            ahead += lines
            if other == batch_id:
                break
        else:
            return None
        own = self._forecast.expect(self._left[batch_id])
        last = self._forecast.expect(min(ahead + self._window, sum(self._left.values())))
        return None if own is None or last is None else Completion(own.least_seconds, last.most_seconds)
