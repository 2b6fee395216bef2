"""Predictors that know the truth."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.estimators.length_error import Measured
from brim.core.request import Request, SamplingParams
from brim.simulation.lengths import NoisyOracle, Oracle, anchored

ALPACA = Path(__file__).parents[4] / "shared" / "data" / "traces" / "alpaca_5000_llama2tok.csv.gz"


def asked(request_id: str, max_tokens: int = 4096) -> Request:
    return Request(request_id, (1,), SamplingParams(max_tokens=max_tokens))


@given(st.integers(1, 300), st.integers(0, 400), st.integers(1, 500), st.integers(0, 5))
def test_predictions_are_over_what_there_is_and_within_the_limit(
    truth: int, generated: int, max_tokens: int, seed: int
) -> None:
    generated = min(generated, max_tokens - 1)
    request = asked("r", max_tokens)
    for oracle in (Oracle({"r": truth}), NoisyOracle({"r": truth}, 0.5, seed), anchored({"r": truth}, seed)):
        assert generated < oracle.predict(request, generated) <= max_tokens


def test_the_oracle_is_right() -> None:
    assert [Oracle({"r": 40}).predict(asked("r"), generated) for generated in (0, 39, 40)] == [40, 40, 41]


def test_an_error_belongs_to_its_request_and_seed() -> None:
    truth = {str(number): 100 for number in range(50)}
    requests = [asked(request_id) for request_id in truth]
    first = {r.request_id: NoisyOracle(truth, 0.5, 1).predict(r, 0) for r in requests}
    oracle = NoisyOracle(truth, 0.5, 1)
    random.Random(0).shuffle(requests)
    assert {r.request_id: oracle.predict(r, 0) for r in requests} == first
    assert {r.request_id: NoisyOracle(truth, 0.5, 2).predict(r, 0) for r in requests} != first
    assert len(set(first.values())) > 30


def test_without_noise_it_is_the_oracle() -> None:
    assert NoisyOracle({"r": 40}, 0.0).predict(asked("r"), 0) == 40


def test_an_outgrown_prediction_is_made_anew_and_seldom() -> None:
    """Token by token: overruns are few, not one for every token that is left."""
    overruns = []
    for number in range(200):
        oracle, request, predictions = NoisyOracle({"r": 400}, 0.5, number), asked("r"), 0
        generated = 0
        while generated < 400:
            generated, predictions = oracle.predict(request, generated), predictions + 1
        overruns.append(predictions - 1)
    assert fmean(overruns) < 3


@pytest.mark.skipif(not ALPACA.exists(), reason="needs the length files, which are no part of the repository")
@pytest.mark.parametrize("seed", range(3))
def test_the_anchored_error_is_the_published_one(seed: int) -> None:
    with gzip.open(ALPACA, "rt") as file:
        truth = {str(n): int(row["output_tokens"]) for n, row in enumerate(csv.DictReader(file))}
    measured = Measured(anchored(truth, seed))
    for request_id, length in truth.items():
        measured.predict(asked(request_id), 0)
        measured.observe(asked(request_id), length)
    figures = measured.error.figures()
    assert figures["mean_absolute_tokens"] == pytest.approx(62, rel=0.03)
    assert figures["share_within_50"] == pytest.approx(0.59, abs=0.015)
    assert figures["share_within_100"] == pytest.approx(0.81, abs=0.015)
