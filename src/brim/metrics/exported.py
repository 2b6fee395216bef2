"""Which figures of a class are shown, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from brim.core.request import TaskClass
from brim.metrics.histogram import Histogram
from brim.metrics.recorder import ClassMetrics


class Counted(NamedTuple):
    """A counter kept by class. `vllm` is the name of the sum over the classes; either name may be empty."""

    vllm: str
    brim: str
    help: str
    read: Callable[[ClassMetrics[Histogram]], int]


class Measured(NamedTuple):
    """A histogram kept by class, with both names."""

    vllm: str
    brim: str
    help: str
    read: Callable[[ClassMetrics[Histogram]], Histogram]


COUNTERS = (
    Counted("", "requests_arrived", "Requests taken in", lambda m: m.arrived),
    Counted("num_preemptions", "preemptions", "Times a request lost its KV cache", lambda m: m.preempted),
    Counted(
        "", "recomputed_tokens", "Tokens computed again after a preemption", lambda m: m.recomputed_tokens
    ),
    Counted(
        "prompt_tokens", "prompt_tokens", "Prompt tokens of admitted requests", lambda m: m.prompt_tokens
    ),
    Counted("prompt_tokens_cached", "cached_tokens", "Prompt tokens not computed", lambda m: m.cached_tokens),
    Counted("prefix_cache_queries", "", "Prompt tokens looked up in the cache", lambda m: m.prompt_tokens),
    Counted("prefix_cache_hits", "", "Prompt tokens found in the cache", lambda m: m.cached_tokens),
    Counted("", "predicted_misses", "Requests foretold to miss a target", lambda m: m.predicted_misses),
    Counted("generation_tokens", "output_tokens", "Tokens generated", lambda m: m.output_tokens),
)
HISTOGRAMS = (
    Measured(
        "time_to_first_token_seconds", "ttft_seconds", "Arrival to first token", lambda m: m.ttft_seconds
    ),
    Measured("inter_token_latency_seconds", "itl_seconds", "Gap between two tokens", lambda m: m.itl_seconds),
    Measured(
        "request_time_per_output_token_seconds",
        "tpot_seconds",
        "Mean gap between the tokens of one request",
        lambda m: m.tpot_seconds,
    ),
    Measured("e2e_request_latency_seconds", "e2e_seconds", "Arrival to last token", lambda m: m.e2e_seconds),
    Measured(
        "request_queue_time_seconds", "queue_seconds", "Arrival to admission", lambda m: m.queue_seconds
    ),
)


def figures(by_class: Mapping[TaskClass, ClassMetrics[Histogram]]) -> dict[str, float]:
    """The counters and histograms of each class and how many targets were met, as samples of Prometheus.

    By name and labels, such as `ttft_seconds_bucket{class="online",le="0.1"}`.
    """
    return dict(sample for name, metrics in by_class.items() for sample in _samples(name.value, metrics))


def _samples(name: str, metrics: ClassMetrics[Histogram]) -> Iterator[tuple[str, float]]:
    label = f'class="{name}"'
    for counted in COUNTERS:
        if counted.brim:
            yield f"{counted.brim}_total{{{label}}}", counted.read(metrics)
    for measured in HISTOGRAMS:
        histogram = measured.read(metrics)
        counts, bounds = histogram.cumulative(), [*map(float, histogram.bounds), "+Inf"]
        for bound, number in zip(bounds, counts, strict=True):
            yield f'{measured.brim}_bucket{{{label},le="{bound}"}}', number
        yield f"{measured.brim}_count{{{label}}}", counts[-1]
        yield f"{measured.brim}_sum{{{label}}}", histogram.sum
    for (target, met), number in dict(metrics.slo).items():
        yield f'slo_attainment_total{{{label},slo="{target}",met="{str(met).lower()}"}}', number
