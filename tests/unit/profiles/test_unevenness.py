"""How uneven steps are: kept as a few quantiles, drawn again as they were."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError
from brim.profiles.loader import as_json, load
from brim.profiles.unevenness import EVEN, SHARES, Unevenness


@given(st.lists(st.floats(0.5, 3.0), min_size=1, max_size=60), st.floats(0, 1, exclude_max=True))
def test_what_is_drawn_lies_among_what_was_seen_and_rises(ratios: list[float], share: float) -> None:
    found = Unevenness.of(ratios)
    assert min(ratios) - 1e-4 <= found.at(0.0) <= found.at(share) <= max(ratios) + 1e-4


def test_what_is_drawn_is_as_uneven_as_what_was_seen() -> None:
    draw = random.Random(3)
    seen = [draw.lognormvariate(0.0, 0.2) for _ in range(4000)]
    again = [Unevenness.of(seen).at(draw.random()) for _ in range(4000)]
    for share in (0.05, 0.5, 0.95, 0.99):
        old, new = (sorted(each)[int(share * 4000)] for each in (seen, again))
        assert new == pytest.approx(old, rel=0.03)
    assert sum(again) == pytest.approx(sum(seen), rel=0.02)


def test_nothing_seen_is_even() -> None:
    assert Unevenness.of([]) == EVEN
    assert EVEN.negligible
    assert EVEN.at(0.999) == 1.0
    assert Unevenness.of([0.97, 1.0, 1.03]).negligible
    assert not Unevenness.of([1.0] * 9 + [1.2]).negligible
    assert not Unevenness.of([0.5] * 9 + [1.0]).negligible


@pytest.mark.parametrize(
    ("shares", "times"),
    [
        ((0.0, 1.0), (1.0,)),
        ((0.0, 0.5), (1.0, 1.0)),
        ((0.0, 0.6, 0.5, 1.0), (1.0, 1.0, 1.0, 1.0)),
        ((0.0, 1.0), (1.2, 1.0)),
        ((0.0, 1.0), (0.0, 1.0)),
        ((), ()),
    ],
)
def test_what_makes_no_sense_is_refused(shares: tuple[float, ...], times: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Unevenness(shares, times)


def test_a_profile_keeps_it_in_its_file(tmp_path: Path) -> None:
    profile = load("h100-llama-3-8b")
    assert profile.unevenness is None
    uneven = replace(profile, unevenness=Unevenness(SHARES, tuple(1 + share for share in SHARES)))
    path = tmp_path / "mine.json"
    path.write_text(as_json(uneven))
    assert load(path) == uneven
    path.write_text(as_json(uneven).replace("0.9999", "0.9"))
    with pytest.raises(ConfigError, match=r"mine.json: field unevenness"):
        load(path)
