"""Non-negative least squares over normal equations, for a handful of coefficients."""

from __future__ import annotations

from collections.abc import Sequence

_SWEEPS = 40  # of one call: the next call goes on from where the last one ended
_ENOUGH = 1e-9  # a sweep whose largest move is smaller, beside the largest coefficient, is the last


class NormalEquations:
    """Sums over rows, each to be met by `row . x = 1`: all that their least squares needs to know."""

    def __init__(self, size: int) -> None:
        self.matrix = [[0.0] * (i + 1) for i in range(size)]  # symmetric: its lower half
        self.right = [0.0] * size

    def add(self, row: Sequence[float], weight: float) -> None:
        """One more row; its squared error counts `weight` times."""
        filled = [(i, value) for i, value in enumerate(row) if value]
        for k, (i, value) in enumerate(filled, 1):
            weighted = weight * value
            self.right[i] += weighted
            line = self.matrix[i]
            for j, other in filled[:k]:
                line[j] += weighted * other

    def lengthened(self, factor: float, weight: float) -> NormalEquations:
        """The same rows with their targets `factor` times as large, each counting `weight` times."""
        copy = NormalEquations(0)
        copy.matrix = [[value * weight / factor**2 for value in line] for line in self.matrix]
        copy.right = [value * weight / factor for value in self.right]
        return copy

    def solve(self, start: Sequence[float]) -> list[float]:
        """Coefficients of least squared error, none below 0, by coordinate descent from `start`.

        A coefficient that no row speaks of stays as it is.
        """
        # columns of length 1: else the error of a sum over millions of pairs would drown the others
        sizes = [line[i] ** 0.5 or 1.0 for i, line in enumerate(self.matrix)]
        lines = [(i, self._line(i, sizes)) for i, line in enumerate(self.matrix) if line[i]]
        right = [value / size for value, size in zip(self.right, sizes, strict=True)]
        found = [value * size for value, size in zip(start, sizes, strict=True)]
        for _ in range(_SWEEPS):
            largest = 0.0
            for i, line in lines:
                old = found[i]
                found[i] = max(old + right[i] - sum(map(float.__mul__, line, found)), 0.0)
                largest = max(largest, abs(found[i] - old))
            if largest <= _ENOUGH * max(found):
                break
        return [value / size for value, size in zip(found, sizes, strict=True)]

    def _line(self, i: int, sizes: Sequence[float]) -> list[float]:
        whole = [*self.matrix[i], *(line[i] for line in self.matrix[i + 1 :])]
        return [value / (sizes[i] * size) for value, size in zip(whole, sizes, strict=True)]
