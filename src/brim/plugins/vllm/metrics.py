"""vLLM's /metrics with Brim's figures below: of the scheduler, by engine, and of the batch jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import Response
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from brim.batch_api.api import BatchApi
from brim.metrics.exported import COUNTERS, HISTOGRAMS
from brim.plugins.vllm.engine import Engines
from brim.server.batch_figures import BatchFigures
from brim.server.prometheus import ATTAINMENT, FIGURES, GAUGES, TARGET, Exposition
from brim.server.scrape import Parts, Shared

FRESH_SECONDS = 1.0

_SAMPLE = re.compile(r"([a-zA-Z_]\w*?)(_total|_bucket|_sum|_count)?(?:\{(.*)\})?")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_HELP = {
    **FIGURES,
    **{row.brim: row.help for row in (*COUNTERS, *HISTOGRAMS) if row.brim},
    **{row.name.removeprefix("brim:"): row.help for row in GAUGES},
    "slo_attainment": ATTAINMENT,
    "target_seconds": TARGET,
    "active": "Whether the engine does what Brim orders, 0 or 1",
    "failures": "Times that Brim failed and the engine went on by itself",
    "deviations": "Steps in which the engine did not do what it was told",
    "shadow_steps": "Steps in which Brim only looked on",
    "shadow_steps_different": "Of these, those that Brim would have taken otherwise",
    "shadow_offline_tokens": "Offline tokens that Brim would have run in these steps",
    "shadow_stock_offline_tokens": "Offline tokens that the engine ran in these steps",
    "shadow_step_seconds_p99": "p99 of what Brim's last 10,000 steps would have taken, as predicted",
    "shadow_stock_step_seconds_p99": "The same for the steps that the engine ran",
}


class VllmExposition:
    """Renders vLLM's figures of this moment, and Brim's of at most `FRESH_SECONDS` before. `own` gives vLLM's
    registry, with several API servers a new one for each scrape."""

    def __init__(
        self, engines: Callable[[], Engines], batch_api: BatchApi | None, own: Callable[[], Any]
    ) -> None:
        self._engines = engines
        self._batch_api = batch_api
        self._own = own
        self._brims = Shared(self._render, FRESH_SECONDS)
        self._parts = Parts()

    async def metrics(self) -> Response:
        """Prometheus metrics, in its text format: vLLM's, and Brim's where they can be had."""
        own = asyncio.to_thread(generate_latest, self._own())
        body = b"".join(await asyncio.gather(own, self._brims.get()))
        return Response(body, headers={"content-type": Exposition.content_type})

    async def _render(self) -> bytes:
        parts = [self._parts.render("scheduler", self._of_engines())]
        if self._batch_api is not None and self._batch_api.running:
            parts.append(self._parts.render("batch", BatchFigures.of(self._batch_api)))
        return b"".join(await asyncio.gather(*parts))

    async def _of_engines(self) -> Collector:
        return EngineFigures(await self._engines().samples())


class EngineFigures(Collector):
    """Figures by engine and by name. A name may hold labels, `slo_attainment_total{class="online"}`;
    what ends in `_total` is a counter, what has a `_bucket` a histogram, all else a gauge."""

    def __init__(self, by_engine: Mapping[str, Mapping[str, float]]) -> None:
        self._by_engine = by_engine

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for engine, figures in self._by_engine.items():
            for key, value in figures.items():
                name, suffix, labels = _sample(key, figures)
                family = families.get(name)
                if family is None:
                    text = _HELP.get(name, name.replace("_", " "))
                    family = families[name] = Metric(f"brim:{name}", text, _TYPES.get(suffix, "gauge"))
                family.add_sample(f"brim:{name}{suffix}", {"engine": engine, **labels}, value)
        yield from families.values()


_TYPES = {"_total": "counter", "_bucket": "histogram", "_sum": "histogram", "_count": "histogram"}


def _sample(key: str, figures: Mapping[str, float]) -> tuple[str, str, dict[str, str]]:
    """A family's name, the sample's suffix and its labels."""
    match = _SAMPLE.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} is no name of a figure")
    name, suffix, labels = match[1], match[2] or "", dict(_LABEL.findall(match[3] or ""))
    if suffix in ("_sum", "_count") and not any(other.startswith(f"{name}_bucket{{") for other in figures):
        return name + suffix, "", labels
    return name, suffix, labels
