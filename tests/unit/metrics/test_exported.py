"""The figures of each class as samples of Prometheus."""

from __future__ import annotations

from prometheus_client.utils import floatToGoString

from brim.core.request import TaskClass
from brim.metrics.exported import COUNTERS, HISTOGRAMS, figures
from brim.metrics.recorder import bucketed


def test_every_figure_is_there_for_each_class() -> None:
    by_class = {name: bucketed() for name in TaskClass}
    online = by_class[TaskClass.ONLINE]
    online.output_tokens = 7
    online.ttft_seconds.observe(0.3)
    online.ttft_seconds.observe(1e6)
    online.slo.update({("ttft", True): 2, ("all", False): 1})
    found = figures(by_class)
    assert found['output_tokens_total{class="online"}'] == 7
    assert found['output_tokens_total{class="offline"}'] == 0
    assert found['ttft_seconds_bucket{class="online",le="0.25"}'] == 0
    assert found['ttft_seconds_bucket{class="online",le="0.5"}'] == 1
    assert found['ttft_seconds_bucket{class="online",le="+Inf"}'] == 2
    assert found['ttft_seconds_count{class="online"}'] == 2
    assert found['ttft_seconds_sum{class="online"}'] == 1e6 + 0.3
    assert found['slo_attainment_total{class="online",slo="ttft",met="true"}'] == 2
    assert found['slo_attainment_total{class="online",slo="all",met="false"}'] == 1
    names = {name.partition("{")[0] for name in found}
    counted = {f"{row.brim}_total" for row in COUNTERS if row.brim}
    measured = {f"{row.brim}_{end}" for row in HISTOGRAMS for end in ("bucket", "count", "sum")}
    assert names == counted | measured | {"slo_attainment_total"}


def test_bounds_are_written_as_prometheus_does() -> None:
    metrics = bucketed()
    for row in HISTOGRAMS:
        for bound in row.read(metrics).bounds:
            assert str(float(bound)) == floatToGoString(bound)
