"""The scheduler's figures in Prometheus' text format: names, labels, types."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from brim.plugins.vllm.metrics import EngineFigures


def families(*figures: dict[str, float]) -> dict[str, tuple[str, dict]]:
    registry = CollectorRegistry()
    registry.register(EngineFigures({str(number): each for number, each in enumerate(figures)}))
    return {
        family.name: (
            family.type,
            {(s.name, *sorted(s.labels.items())): s.value for s in family.samples},
        )
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }


def test_the_end_of_a_name_tells_its_type() -> None:
    shown = families({'preemptions_total{class="online",why="blocks"}': 2, "free_blocks": 5, "e2e_sum": 1})
    engine = ("engine", "0")
    labels = (("class", "online"), engine, ("why", "blocks"))
    assert shown == {
        "brim:preemptions": ("counter", {("brim:preemptions_total", *labels): 2}),
        "brim:free_blocks": ("gauge", {("brim:free_blocks", engine): 5}),
        "brim:e2e_sum": ("gauge", {("brim:e2e_sum", engine): 1}),
    }


def test_engines_share_a_family() -> None:
    kind, samples = families({"free_blocks": 5}, {"free_blocks": 6})["brim:free_blocks"]
    assert (kind, sorted(samples.values())) == ("gauge", [5, 6])


def test_a_histogram_stays_whole() -> None:
    kind, samples = families(
        {
            'ttft_seconds_bucket{class="online",le="0.5"}': 3,
            'ttft_seconds_bucket{class="online",le="+Inf"}': 4,
            'ttft_seconds_count{class="online"}': 4,
            'ttft_seconds_sum{class="online"}': 1.5,
        }
    )["brim:ttft_seconds"]
    assert kind == "histogram"
    assert len(samples) == 4


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(ValueError, match="a-b"):
        families({"a-b": 1})
