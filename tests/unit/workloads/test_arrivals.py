"""Generators keep their promises: rate, burstiness, envelope, and the same moments for the same seed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, pairwise
from math import exp
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from brim.core.errors import ConfigError, TraceError
from brim.workloads.arrivals import (
    AllAtOnce,
    Deterministic,
    Diurnal,
    Gamma,
    Poisson,
    parse_arrivals,
)
from brim.workloads.envelope import Envelope, read_envelope
from brim.workloads.trace import NANOSECONDS

RATES = """model,window_start_s,total_rate_rps,active_clients
a,600,30,1
a,0,10,1
b,1200,1,1
b,1260,3,1
"""
HALVES = Envelope(((0, 1.0), (50, 9.0)), 100)


def gaps_s(arrivals: Iterable[int], count: int) -> list[float]:
    moments = [0, *islice(arrivals, count)]
    return [(b - a) / NANOSECONDS for a, b in pairwise(moments)]


@pytest.mark.parametrize(
    ("arrivals", "rate", "cv"),
    [
        (Poisson(5, 1), 5, 1),
        (Gamma(5, 0.3, 1), 5, 0.3),
        (Gamma(0.2, 2, 1), 0.2, 2),
        (Deterministic(40), 40, 0),
        (Diurnal(Envelope(((0, 3.0), (7, 3.0)), 10), cv=1.5, seed=1), 3, 1.5),
    ],
    ids=str,
)
def test_rate_and_burstiness(arrivals: Iterable[int], rate: float, cv: float) -> None:
    gaps = gaps_s(arrivals, 20_000)
    assert 1 / fmean(gaps) == pytest.approx(rate, rel=0.04)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.04, abs=0.01)
    assert min(gaps) >= 0
    assert gaps == gaps_s(arrivals, 20_000), "iterated again it starts anew"


def test_poisson_gaps_are_exponential() -> None:
    ranked = sorted(gaps_s(Poisson(2, seed=5), 10_000))
    furthest = max(abs((i + 0.5) / len(ranked) - (1 - exp(-2 * gap))) for i, gap in enumerate(ranked))
    assert furthest < 1.63 / len(ranked) ** 0.5  # Kolmogorov-Smirnov at 1 %


def test_seeds_differ() -> None:
    assert gaps_s(Poisson(1, 1), 9) != gaps_s(Poisson(1, 2), 9)


def test_all_at_once() -> None:
    assert list(islice(AllAtOnce(), 3)) == [0, 0, 0]


@pytest.mark.parametrize("cv", [1, 0.5])
def test_diurnal_follows_its_envelope_around_and_around(cv: float) -> None:
    cycles = 100
    moments = [ns / NANOSECONDS for ns in islice(Diurnal(HALVES, cv, seed=2), 55_000)]
    inside = [m % 100 for m in moments if m < cycles * 100]
    assert sum(m < 50 for m in inside) == pytest.approx(cycles * 50, rel=0.05)
    assert sum(m >= 50 for m in inside) == pytest.approx(cycles * 450, rel=0.05)


def test_nobody_comes_where_the_rate_is_zero() -> None:
    envelope = Envelope(((0, 0.0), (10, 2.0), (20, 0.0)), 30)
    moments = [ns / NANOSECONDS % 30 for ns in islice(Diurnal(envelope), 500)]
    assert all(10 <= m < 20 for m in moments)


def test_an_envelope_is_scaled_by_its_mean() -> None:
    assert HALVES.mean_rate == 5
    assert HALVES.scaled_to(10).steps == ((0, 2.0), (50, 18.0))


@pytest.mark.parametrize(
    "wrong", [((), 1), (((1, 1.0),), 2), (((0, 1.0), (0, 1.0)), 2), (((0, 0.0),), 2), (((0, -1.0),), 2)]
)
def test_a_wrong_envelope(wrong: tuple[tuple[tuple[float, float], ...], float]) -> None:
    with pytest.raises(ConfigError, match="envelope"):
        Envelope(*wrong)


def test_a_day_of_an_envelope() -> None:
    whole = Envelope(((0, 1.0), (80_000, 2.0), (90_000, 3.0), (172_800, 4.0)), 200_000, "rates")
    assert whole.day(1) == Envelope(((0, 1.0), (80_000, 2.0)), 86_400, "rates day 1")
    assert whole.day(2) == Envelope(((0, 2.0), (3_600, 3.0)), 86_400, "rates day 2")
    for wrong in (0, 3):
        with pytest.raises(ConfigError, match=rf"rates has 2.31 days, and no day {wrong}"):
            whole.day(wrong)


def test_models_are_summed_where_both_have_a_window(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("model,window_start_s,total_rate_rps\na,0,1\na,60,2\na,120,4\nb,60,10\nb,120,20\n")
    assert read_envelope(path, "a+b") == Envelope(((0, 12.0), (60, 24.0)), 120, "rates.csv a+b")
    with pytest.raises(TraceError, match="holds the rates of a, b"):
        read_envelope(path, "a+c")
    path.write_text("window_start_s,total_rate_rps\n0,1\n0,2\n")
    with pytest.raises(TraceError, match=r"line 3: the window from 0 s is there twice"):
        read_envelope(path)


def test_an_envelope_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    assert read_envelope(path, "a") == Envelope(((0, 10.0), (600, 30.0)), 1200, "rates.csv a")
    assert read_envelope(path, "b") == Envelope(((0, 1.0), (60, 3.0)), 120, "rates.csv b")
    for model in ("", "c"):
        with pytest.raises(TraceError, match="holds the rates of a, b: name one"):
            read_envelope(path, model)
    path.write_text("window_start_s,total_rate_rps\n0,1\n60,x\n")
    with pytest.raises(TraceError, match=r"rates.csv, line 3: total_rate_rps is 'x'"):
        read_envelope(path)
    path.write_text("window_start_s,rate\n0,1\n")
    with pytest.raises(TraceError, match="needs the columns total_rate_rps"):
        read_envelope(path)


def test_spellings(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    assert parse_arrivals("poisson:5", 3) == Poisson(5, 3)
    assert parse_arrivals("gamma:5:2.0", 3) == Gamma(5, 2, 3)
    assert parse_arrivals("uniform:5") == Deterministic(5)
    assert parse_arrivals("all-at-once") == AllAtOnce()
    assert str(parse_arrivals(f"diurnal:{path}:5:a")) == "diurnal (rates.csv a), mean 5/s, Poisson, seed 0"
    assert "mean 20/s" in str(parse_arrivals(f"diurnal:{path}::a"))
    path.write_text("window_start_s,total_rate_rps\n0,1\n43200,3\n86400,9\n129600,9\n")
    assert "rates.csv day 2), mean 6/s" in str(parse_arrivals(f"diurnal:{path}:6::2"))


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("posson:5", "are no arrivals: give poisson:RATE, gamma:RATE:CV"),
        ("poisson", "are no arrivals"),
        ("poisson:5:2", "are no arrivals"),
        ("gamma:5", "are no arrivals"),
        ("poisson:many", "has 'many' for a number"),
        ("poisson:0", "a rate of 0 makes no arrivals"),
        ("gamma:1:-2", "a cv of -2"),
        ("uniform:nan", "a rate of nan"),
        ("diurnal:a:b:c:d:e", "are no arrivals"),
    ],
)
def test_wrong_spellings(spelling: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arrivals(spelling)
