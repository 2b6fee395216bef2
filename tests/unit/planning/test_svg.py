"""The axes of a plot: rounded numbers, and all of the curve between them."""

from __future__ import annotations

import re

import pytest

from brim.planning.svg import HEIGHT, Line, plot, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.0, 7.3, [0, 2, 4, 6]),
        (0.0, 0.0291, [0, 0.005, 0.01, 0.015, 0.02, 0.025]),
        (0.95, 1.0025, [0.95, 0.96, 0.97, 0.98, 0.99, 1.0]),
        (0.0, 1.26e6, [0, 500_000, 1_000_000]),
        (0.0, 3.0, [0, 1, 2, 3]),
        (0.0, 1.05, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_ticks_are_rounded(low: float, high: float, found: list[float]):
    assert ticks(low, high) == pytest.approx(found)


def drawn(**how: bool) -> tuple[list[str], list[float]]:
    """The numbers on the upright axis, and how high the points lie, from 0 below to 1 above."""
    shown = plot("t", "replicas", [Line("met", [(1, 0.953), (3, 0.992)])], **how)
    points = re.findall(r'points="([^"]+)"', shown)[0].split()
    numbers = re.findall(r'text-anchor="end">([\d.,]+)<', shown)
    return numbers, [1 - float(point.split(",")[1]) / HEIGHT for point in points]


def test_a_zoomed_axis_shows_what_the_points_differ_by():
    numbers, heights = drawn(zoomed=True)
    assert numbers == ["0.95", "0.96", "0.97", "0.98", "0.99"]
    assert heights[1] - heights[0] > 0.5
    numbers, heights = drawn()
    assert numbers == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert heights[1] - heights[0] < 0.1


@pytest.mark.parametrize("height", [0.0, 1.0, 0.4])
def test_a_flat_curve_has_an_axis(height: float):
    for zoomed in (False, True):
        shown = plot("t", "hours", [Line("met", [(0, height), (0, height)])], zoomed=zoomed)
        assert "nan" not in shown
        assert "inf" not in shown
