"""Step-time coefficients from measured steps, by non-negative least squares on relative errors.

Relative, so that a decode step of 8 ms counts as much as a prompt step of 200 ms; each kind of step (decode,
prefill, mixed) weighs the same, however many rows it has, and inside a kind all rows do or, where a table
reaches far beyond what is served every day, as `everyday_first` says. Some sizes take no part in the fit: the
errors on their rows tell how well it meets sizes it has not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from brim.core.estimators.step_time import PICOSECONDS, StepShape, StepTime
from brim.profiles.loader import Errors, Fit

KNEES = (32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)  # tokens at which the slope may rise
MOST_KNEES = 3
HELD_BACK_DECODES = {8, 64}
HELD_BACK_CHUNKS = {24, 128, 182, 512, 1384, 4096}  # prompt tokens of a step
EVERYDAY_CONTEXT = 4096  # tokens behind a chunk, or attended to by each decode
BEYOND_EVERYDAY = 0.3


class Row(NamedTuple):
    """One step, as it was measured or put together from measured kernels."""

    shape: StepShape
    seconds: float

    @property
    def chunk_tokens(self) -> int:
        return self.shape.new_tokens - self.shape.num_decodes

    @property
    def kind(self) -> str:
        if not self.chunk_tokens:
            return "decode"
        return "mixed" if self.shape.num_decodes else "prefill"

    @property
    def held_back(self) -> bool:
        return self.shape.num_decodes in HELD_BACK_DECODES or self.chunk_tokens in HELD_BACK_CHUNKS

    @property
    def longest_context(self) -> float:
        """Tokens behind the chunk, or those that a decode attends to in the mean."""
        behind = self.shape.attention_pairs / max(self.chunk_tokens, 1) - (self.chunk_tokens + 1) / 2
        return max(behind, self.shape.decode_context / max(self.shape.num_decodes, 1))


Weight = Callable[[Row], float]


def alike(row: Row) -> float:
    return 1.0


def everyday_first(row: Row) -> float:
    """Rows with long contexts weigh less, long steps more: a simulation adds up seconds."""
    share = 1.0 if row.longest_context <= EVERYDAY_CONTEXT else BEYOND_EVERYDAY
    return share * sqrt(row.seconds)


def fit(rows: Sequence[Row], weight: Weight = alike) -> tuple[StepTime, Fit]:
    """The step time of the rows that are not held back, and its errors on both parts."""
    seen = [row for row in rows if not row.held_back]
    unseen = [row for row in rows if row.held_back]
    step_time = fit_step_time(seen, weight)
    kinds = sorted({row.kind for row in unseen})
    by_kind = {kind: errors(step_time, [row for row in unseen if row.kind == kind]) for kind in kinds}
    worst = max(rows, key=lambda row: abs(_relative_error(step_time, row)))
    return step_time, Fit(
        errors(step_time, seen), errors(step_time, unseen), by_kind, _told(step_time, worst)
    )


def fit_step_time(rows: Sequence[Row], weight: Weight = alike) -> StepTime:
    """The best non-negative fit with at most `MOST_KNEES` knees."""
    kinds: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        kinds[row.kind] += weight(row)
    seconds = np.array([row.seconds for row in rows])
    target = np.array([weight(row) ** 0.5 * kinds[row.kind] ** -0.5 for row in rows])
    shapes = np.array([row.shape for row in rows], dtype=float)
    inside = [knee for knee in KNEES if 2 * knee <= shapes[:, 0].max()]  # at the edge one would bend the rest
    choices = combinations(inside, min(MOST_KNEES, len(inside)))
    fits = (_with_knees(shapes, target, target / seconds, knees) for knees in choices)
    return min(fits, key=lambda pair: pair[0])[1]


def _with_knees(
    shapes: np.ndarray, target: np.ndarray, weights: np.ndarray, knees: tuple[int, ...]
) -> tuple[float, StepTime]:
    """(what is left over, step time) of the best fit with these knees; those of slope 0 are dropped."""
    tokens, pairs, decodes, context = shapes.T
    mixed = tokens > decodes
    slopes = [tokens, *(np.maximum(tokens - knee, 0) for knee in knees)]
    attention = [pairs, decodes, context, mixed * decodes, mixed * context]
    columns = np.stack([np.ones(len(shapes)), *slopes, *attention], axis=1) * weights[:, None]
    sizes = np.linalg.norm(columns, axis=0)
    sizes[sizes == 0] = 1  # a size that no row has gets the coefficient 0
    solution, left = nnls(columns / sizes, target)
    constant, token, *rest = (round(x * PICOSECONDS) for x in solution / sizes)
    extras = zip(knees, rest, strict=False)
    kept = tuple((knee, extra) for knee, extra in extras if extra)
    return left, StepTime(constant, token, kept, *rest[len(knees) :])


def errors(step_time: StepTime, rows: Iterable[Row]) -> Errors:
    found = np.abs([_relative_error(step_time, row) for row in rows])
    figures = (found.mean(), *np.quantile(found, [0.5, 0.95]))
    return Errors(len(found), *(round(float(figure), 4) for figure in figures))


def _relative_error(step_time: StepTime, row: Row) -> float:
    return step_time.seconds(row.shape) / row.seconds - 1


def _told(step_time: StepTime, row: Row) -> str:
    shape, error = row.shape, _relative_error(step_time, row)
    return (
        f"{error:+.0%} of {row.seconds * 1e3:.2f} ms at {row.chunk_tokens} prompt tokens "
        f"({shape.attention_pairs} pairs) and {shape.num_decodes} decodes ({shape.decode_context} tokens)"
    )
