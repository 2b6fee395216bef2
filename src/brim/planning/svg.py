"""Small plots as inline SVG: no script, no font, no file besides the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 64, 30, 12
LEAST_SPREAD = 0.01  # of a zoomed axis whose points are all as high
COLOURS = ("#2563a8", "#c2571a", "#3c8d40", "#7a4fa3", "#8a6d3b")

Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """`step` draws each value from the point before to its own; `dots` marks the points."""

    name: str
    points: Sequence[tuple[float, float]]
    step: bool = False
    dashed: bool = False
    dots: bool = False


def plot(title: str, across: str, lines: Sequence[Line], *, zoomed: bool = False) -> str:
    """Both axes from 0; `zoomed`, the upright one from just below its lowest point. Needs a point."""
    heights = [y for line in lines for _, y in line.points]
    most_x = max(x for line in lines for x, _ in line.points) or 1.0
    least_y = min(heights) if zoomed else 0.0
    spread = max(heights) - least_y or (LEAST_SPREAD if zoomed else 1.0)
    step = tick(spread)
    least_y = floor(round(least_y / step, 6)) * step
    most_y = max(heights) + 0.05 * spread if max(heights) else 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / most_x * (WIDTH - LEFT - 10),
            HEIGHT - BOTTOM - (y - least_y) / (most_y - least_y) * (HEIGHT - BOTTOM - TOP),
        )

    drawn = [_curve(line, place, colour) for line, colour in zip(lines, _colours(len(lines)), strict=True)]
    legend = "".join(
        f'<tspan fill="{colour}" dx="12">{escape(line.name)}</tspan>'
        for line, colour in zip(lines, _colours(len(lines)), strict=True)
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18}" role="img" aria-label="{escape(title)}">'
        f"{_axes(ticks(0.0, most_x), ticks(least_y, most_y), across, place)}{''.join(drawn)}"
        f'<text x="{LEFT}" y="{HEIGHT + 14}">{legend}</text></svg></figure>'
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _curve(line: Line, place: Place, colour: str) -> str:
    points: list[tuple[float, float]] = []
    before = 0.0
    for x, y in line.points:
        if line.step:
            points.append(place(before, y))
        points.append(place(x, y))
        before = x
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points if line.dots
    )
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{path}"/>{dots}'


def tick(spread: float) -> float:
    """How far rounded numbers, three to seven in the spread, are apart: 1, 2 or 5 times a power of 10."""
    least = spread / 6
    power = 10.0 ** floor(log10(least))
    return next((times * power for times in (1, 2, 5) if times * power >= least), 10 * power)


def ticks(low: float, high: float) -> list[float]:
    """Rounded numbers from `low` to `high`; whole ones where both are, which is how counts look."""
    step = tick(high - low)
    if low == int(low) and high == int(high):
        step = max(step, 1.0)
    first, last = ceil(round(low / step, 6)), floor(round(high / step, 6))
    return [step * i for i in range(first, last + 1)]


def _axes(across_at: Sequence[float], up_at: Sequence[float], across: str, place: Place) -> str:
    parts = []
    for x in across_at:
        left, bottom = place(x, 0)[0], HEIGHT - BOTTOM
        parts.append(f'<text x="{left:.0f}" y="{bottom + 14:.0f}" text-anchor="middle">{x:,.10g}</text>')
    for y in up_at:
        start, level = place(0, y)
        parts.append(f'<text x="{start - 6:.0f}" y="{level + 4:.0f}" text-anchor="end">{y:,.10g}</text>')
        parts.append(
            f'<line x1="{start}" x2="{WIDTH - 10}" y1="{level:.1f}" y2="{level:.1f}" stroke="#ddd"/>'
        )
    end = f'<text x="{WIDTH - 10}" y="{HEIGHT - 2}" text-anchor="end">{escape(across)}</text>'
    return "".join(parts) + end
