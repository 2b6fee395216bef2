"""Synthetic lengths have the stated means, call themselves synthetic, and come again with their seed."""

from __future__ import annotations

from collections import Counter

import pytest

from brim.core.errors import ConfigError, TraceError
from brim.workloads.lengths import PRESETS, LengthLaw, sampled, synthetic
from brim.workloads.statistics import statistics
from brim.workloads.trace import Trace, TraceRequest

STATED = {"alpaca": (19, 58), "sharegpt": (161, 338), "bookcorpus": (1952, 681)}


def test_presets_are_the_stated_ones() -> None:
    assert {name: tuple(law.mean for law in laws) for name, laws in PRESETS.items()} == STATED


@pytest.mark.parametrize("lengths", [*STATED, (1, 3), (1.5, 7000)])
def test_means_are_met_after_clipping(lengths: str | tuple[float, float]) -> None:
    trace = synthetic(lengths, 3000, seed=1)
    figures = statistics(trace)
    means = STATED[lengths] if isinstance(lengths, str) else lengths
    assert (figures.input_tokens.mean, figures.output_tokens.mean) == pytest.approx(means, rel=0.02)
    assert min(min(r.input_tokens, r.output_tokens) for r in trace.requests) >= 1
    assert figures.output_tokens.max <= 8192
    assert trace.name.startswith("synthetic ")
    assert "SYNTHETIC" in trace.note
    assert not trace.has_arrivals


def test_the_sigma_is_the_stated_one() -> None:
    figures = statistics(synthetic("alpaca", 20_000)).output_tokens
    assert figures.mean / figures.p50 == pytest.approx(2.718281828 ** (0.9**2 / 2), rel=0.05)


def test_input_and_output_know_nothing_of_each_other() -> None:
    requests = synthetic("sharegpt", 5000).requests
    long_inputs = [r for r in requests if r.input_tokens > 100]
    share = sum(r.output_tokens > 200 for r in requests) / len(requests)
    assert sum(r.output_tokens > 200 for r in long_inputs) / len(long_inputs) == pytest.approx(share, rel=0.1)


def test_seeds() -> None:
    assert synthetic("alpaca", 100, 1) == synthetic("alpaca", 100, 1)
    assert synthetic("alpaca", 100, 1).requests != synthetic("alpaca", 100, 2).requests


def test_wrong_wishes() -> None:
    for wrong in ("alpacca", (0.5, 3), (3, 8000)):
        with pytest.raises(ConfigError, match="give"):
            synthetic(wrong, 10)
    with pytest.raises(ConfigError, match="0 requests"):
        synthetic("alpaca", 0)
    with pytest.raises(ConfigError, match="sigma"):
        LengthLaw(5, 0)


def test_draws_from_a_real_trace() -> None:
    real = Trace(
        "real", [TraceRequest(i, i + 1, 2 * i + 1, block_ids=(i,), length_key="k") for i in range(9)], 1
    )
    drawn = sampled(real, 5000, seed=1)
    counts = Counter(r.input_tokens for r in drawn.requests)
    assert set(counts) == set(range(1, 10))
    assert min(counts.values()) > 450
    assert all(
        r == TraceRequest(0, r.input_tokens, 2 * r.input_tokens - 1, length_key="k") for r in drawn.requests
    )
    assert (drawn.name, drawn.has_arrivals, drawn.block_tokens) == ("real sampled", False, 0)
    with pytest.raises(TraceError, match="no requests to draw from"):
        sampled(Trace("t", []), 1)
