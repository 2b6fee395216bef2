"""The figures of a `BatchApi` under Prometheus' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from brim.batch_api.api import Backlog, BatchApi, LineCounts


class BatchFigures(Collector):
    """What one scrape tells of the batch jobs, whoever hosts them."""

    def __init__(self, jobs: Mapping[str, int], lines: LineCounts, backlog: Backlog) -> None:
        self._jobs = jobs
        self._lines = lines
        self._backlog = backlog

    @classmethod
    async def of(cls, batch_api: BatchApi) -> BatchFigures:
        """The figures of this moment. Raises sqlite3.Error where the jobs can't be counted."""
        return cls(await batch_api.job_counts(), batch_api.line_counts(), batch_api.backlog())

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("brim:batch_jobs", "Batch jobs by status", labels=["status"])
        for status, number in self._jobs.items():
            jobs.add_metric([status], number)
        yield jobs
        lines = CounterMetricFamily("brim:batch_lines", "Batch lines ended, by result", labels=["result"])
        for result in ("completed", "failed", "expired"):
            lines.add_metric([result], getattr(self._lines, result))
        yield lines
        yield gauge("brim:batch_lines_in_flight", "Batch lines being run", {}, self._lines.in_flight)
        yield gauge("brim:batch_backlog_lines", "Batch lines without a result", {}, self._backlog.lines)
        seconds = GaugeMetricFamily(
            "brim:batch_backlog_seconds", "Until all have one, where that is known", labels=["bound"]
        )
        if self._backlog.completion is not None:
            seconds.add_metric(["least"], self._backlog.completion.least_seconds)
            seconds.add_metric(["most"], self._backlog.completion.most_seconds)
        yield seconds


def gauge(name: str, text: str, labels: Mapping[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_sample(name, dict(labels), value)
    return family
