"""Rates at equal latency, and how many requests fit into a KV cache."""

from __future__ import annotations

import math

import pytest

from brim.reproduction.ratios import Held, change, held_at, packing

CURVE = ((1.0, 0.1), (2.0, 0.4), (3.0, 1.6))


def test_a_rate_is_read_from_the_line_of_the_logarithms() -> None:
    assert held_at(CURVE, 0.2) == Held(pytest.approx(1.5))
    assert held_at(CURVE, 0.4) == Held(2.0)
    assert held_at(CURVE, 0.4 * math.sqrt(2)) == Held(pytest.approx(2.25))


def test_a_limit_outside_what_was_measured_says_so() -> None:
    assert str(held_at(CURVE, 0.05)) == "<1"
    assert str(held_at(CURVE, 1.7)) == ">3"


def test_the_first_crossing_counts_where_a_curve_falls_again() -> None:
    assert held_at(((1.0, 0.1), (2.0, 1.0), (3.0, 0.1)), 1.0).beyond == ">"
    assert held_at(((1.0, 0.1), (2.0, 10.0), (3.0, 0.1)), 1.0) == Held(pytest.approx(1.5))


def test_changes_are_shares_of_the_old() -> None:
    assert change(1.0, 4.0) == -0.75
    assert change(3.0, 2.0) == 0.5
    assert change(0.5, 0.0) is None


def test_packing_of_equal_requests_is_the_arithmetic_of_their_lengths() -> None:
    fit = packing([(100, 300)] * 3, 1000, max_output=900)
    assert fit.maximum == pytest.approx(1.0)
    assert fit.exact == pytest.approx(1000 / 400)
    assert fit.written == pytest.approx(1000 / 250)
    assert fit.gain == pytest.approx(400 / 250)


def test_long_answers_hold_their_place_for_longer() -> None:
    assert packing([(0, 100), (0, 300)], 1000, 300).exact == pytest.approx(1000 / 250)
