"""`/metrics`: the figures of one engine loop, under vLLM's names in sum and under ours by class.

vLLM's names are there so that routers and dashboards made for it work here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from brim.batch_api.api import BatchApi
from brim.core.request import SLO, FinishReason
from brim.engines.base import EngineCaps
from brim.engines.loop import EngineLoop
from brim.engines.stats import LoopStats
from brim.metrics.exported import COUNTERS, HISTOGRAMS, Counted, Measured
from brim.metrics.histogram import Histogram
from brim.metrics.judging import targets_of
from brim.metrics.recorder import ClassMetrics
from brim.server.batch_figures import BatchFigures, gauge
from brim.server.scrape import Parts, Shared


class Gauged(NamedTuple):
    """A size of this moment."""

    name: str
    help: str
    read: Callable[[LoopStats], float]


GAUGES = (
    Gauged("vllm:num_requests_running", "Requests in the running batch", lambda s: s.num_running),
    Gauged("vllm:num_requests_waiting", "Requests waiting", lambda s: s.num_waiting),
    Gauged("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", lambda s: s.kv_usage),
    Gauged("brim:online_requests_waiting", "Online requests waiting", lambda s: s.num_waiting_online),
    Gauged("brim:offline_requests_waiting", "Offline requests waiting", lambda s: s.num_waiting_offline),
    Gauged("brim:used_blocks", "KV cache blocks held by running requests", lambda s: s.used_blocks),
    Gauged("brim:promised_blocks", "KV cache blocks used or promised", lambda s: s.promised_blocks),
    Gauged("brim:lent_blocks", "KV cache blocks lent from promises", lambda s: s.lent_blocks),
    Gauged("brim:cached_blocks", "KV cache blocks kept for their content only", lambda s: s.cached_blocks),
    Gauged("brim:free_blocks", "KV cache blocks without content", lambda s: s.free_blocks),
)

FIGURES = {  # of `core.figures`
    "step_time_error_p50": "Median error of predicted step times, as a share of the real time",
    "step_time_error_p95": "95th percentile of the same",
    "step_time_bias": "Median signed error of the same, above 0 where steps are shorter than predicted",
    "step_time_margin": "Share by which decisions take steps to be longer than predicted",
    "online_demand_forecast_blocks": "KV cache blocks that online requests are expected to want",
    "online_demand_coverage": "Share of the time in which that was enough, 0 to 1",
    "offline_headroom_blocks": "KV cache blocks that offline requests may still take",
    "offline_requests_pooled": "Offline requests waiting in the pool",
}
LENGTH_ERROR = {  # of `core.estimators.length_error`
    "mean_absolute_tokens": "Mean error of predicted answer lengths, tokens",
    "mean_over_tokens": "Mean of tokens predicted and never generated",
    "share_under_predicted": "Share of answers that got longer than predicted, 0 to 1",
}

TARGET = "Targets of online requests that bring none"
ATTAINMENT = "Requests that had this target, by outcome; of those without an answer only what they missed"


class Exposition:
    """Renders all figures of one moment in Prometheus' text format."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, loop: EngineLoop, model_name: str, batch_api: BatchApi | None, targets: SLO) -> None:
        """`targets` are those of online requests that bring none."""
        self._engine = _EngineFigures(loop, model_name, targets)
        self._batch_api = batch_api
        self._parts = Parts()
        self._jobs = Shared(self._of_jobs)

    async def render(self) -> bytes:
        """Those of batch jobs are left out where they can't be had soon."""
        jobs = await self._jobs.get()
        registry = CollectorRegistry()
        registry.register(self._engine)
        ProcessCollector(registry=registry)
        return generate_latest(registry) + jobs

    async def _of_jobs(self) -> bytes:
        if self._batch_api is None or not self._batch_api.running:
            return b""
        return await self._parts.render("batch", BatchFigures.of(self._batch_api))


class _EngineFigures(Collector):
    def __init__(self, loop: EngineLoop, model_name: str, targets: SLO) -> None:
        self._loop = loop
        self._targets = targets_of(targets)
        self._model = {"model_name": model_name}

    def collect(self) -> Iterator[Metric]:
        stats = self._loop.stats()
        for row in GAUGES:
            yield gauge(row.name, row.help, self._model, row.read(stats))
        yield gauge(
            "vllm:cache_config_info", "The KV cache's layout", self._model | _layout(self._loop.caps), 1
        )
        targets = GaugeMetricFamily("brim:target_seconds", TARGET)
        for name, target_ns in self._targets.items():
            targets.add_sample(targets.name, self._model | {"slo": name}, target_ns / 1e9)
        yield targets
        by_class = self._loop.metrics.by_class
        for counted in COUNTERS:
            yield from self._counters(counted, {str(name): counted.read(m) for name, m in by_class.items()})
        for measured in HISTOGRAMS:
            yield from self._histograms(
                measured, {str(name): measured.read(m) for name, m in by_class.items()}
            )
        for name, value in self._loop.figures().items():
            yield gauge(f"brim:{name}", FIGURES[name], self._model, value)
        error = self._loop.length_error
        if error is not None and error.requests:
            for name, help_text in LENGTH_ERROR.items():
                yield gauge(f"brim:length_{name}", help_text, self._model, error.figures()[name])
        yield from self._outcomes({str(name): m for name, m in by_class.items()})

    def _counters(self, row: Counted, by_class: Mapping[str, int]) -> Iterator[Metric]:
        if row.vllm:
            total = CounterMetricFamily(f"vllm:{row.vllm}", row.help)
            total.add_sample(f"{total.name}_total", self._model, sum(by_class.values()))
            yield total
        if row.brim:
            split = CounterMetricFamily(f"brim:{row.brim}", row.help)
            for name, value in by_class.items():
                split.add_sample(f"{split.name}_total", self._model | {"class": name}, value)
            yield split

    def _histograms(self, row: Measured, by_class: Mapping[str, Histogram]) -> Iterator[Metric]:
        total = HistogramMetricFamily(f"vllm:{row.vllm}", row.help)
        _add_histogram(total, self._model, list(by_class.values()))
        yield total
        split = HistogramMetricFamily(f"brim:{row.brim}", row.help)
        for name, histogram in by_class.items():
            _add_histogram(split, self._model | {"class": name}, [histogram])
        yield split

    def _outcomes(self, by_class: Mapping[str, ClassMetrics[Histogram]]) -> Iterator[Metric]:
        finished = CounterMetricFamily("brim:requests_finished", "Requests ended, by how they ended")
        success = CounterMetricFamily("vllm:request_success", "Requests ended, by how they ended")
        met = CounterMetricFamily("brim:slo_attainment", ATTAINMENT)
        totals: Counter[FinishReason] = Counter()
        for name, metrics in by_class.items():
            labels = self._model | {"class": name}
            for reason, number in dict(metrics.finished).items():
                finished.add_sample("brim:requests_finished_total", labels | {"reason": reason.value}, number)
                totals[reason] += number
            for (target, was_met), number in dict(metrics.slo).items():
                outcome = {"slo": target, "met": str(was_met).lower()}
                met.add_sample("brim:slo_attainment_total", labels | outcome, number)
        for reason, number in totals.items():
            success.add_sample(
                "vllm:request_success_total", self._model | {"finished_reason": reason}, number
            )
        yield from (finished, success, met)


def _add_histogram(family: Metric, labels: Mapping[str, str], parts: list[Histogram]) -> None:
    """One histogram that is the sum of `parts`, all of the same bounds."""
    bounds = [*map(floatToGoString, parts[0].bounds), "+Inf"]
    counts = [sum(column) for column in zip(*(part.cumulative() for part in parts), strict=True)]
    for bound, number in zip(bounds, counts, strict=True):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, number)
    family.add_sample(f"{family.name}_count", dict(labels), counts[-1])
    family.add_sample(f"{family.name}_sum", dict(labels), sum(part.sum for part in parts))


def _layout(caps: EngineCaps) -> dict[str, str]:
    return {"block_size": str(caps.block_size), "num_gpu_blocks": str(caps.num_blocks)}
