"""Fits the trees of a learned length predictor to served requests, and judges it on the latest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor

from brim.core.errors import ConfigError
from brim.core.estimators.learned_length import (
    NUM_FEATURES,
    Learned,
    LengthModel,
    Tree,
    features,
    log_tokens,
)
from brim.core.estimators.length_error import LengthError, Measured
from brim.core.estimators.response_length import History, ResponseLength, bounded
from brim.core.estimators.served_length import ServedLength
from brim.core.request import Request

MIN_ROWS = 500  # a fifth of fewer judges nothing
MAX_ROWS = 20_000  # the latest: some seconds of fitting
HELD_BACK = 0.2

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model and, by predictor, its error on the rows held back: `constant`, `history`, `learned`."""

    model: LengthModel
    errors: Figures
    rows: int


class Constant:
    """Predicts the same length for all requests."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def predict(self, request: Request, generated: int) -> int:
        return bounded(self.tokens, request, generated)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        """Learns nothing."""


def read_rows(path: Path) -> list[ServedLength]:
    """The latest rows of a file that `--record-lengths` wrote, in its order. Raises ConfigError."""
    rows: list[ServedLength] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                rows.append(_row(line, f"line {number} of {path}"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read {path} ({exc}): give a file that --record-lengths wrote") from exc
    return rows[-MAX_ROWS:]


def _row(line: str, place: str) -> ServedLength:
    try:
        return ServedLength.from_json(line)
    except ConfigError as exc:
        raise ConfigError(f"{place} is not right, {exc}: give a file that --record-lengths wrote") from exc


def train(rows: Sequence[ServedLength], quantile: float) -> Trained:
    """Fits the first four fifths of the rows and judges on the rest. Raises ConfigError for too few rows."""
    if len(rows) < MIN_ROWS:
        raise ConfigError(
            f"{len(rows)} served requests are too few to learn from: record at least {MIN_ROWS}; until then "
            "the history predictor does without a model"
        )
    requests = [row.request(f"row-{number}") for number, row in enumerate(rows)]
    words = {request.request_id: row.words for request, row in zip(requests, rows, strict=True)}
    lengths = [row.output_tokens for row in rows]
    first_held = len(rows) - round(len(rows) * HELD_BACK)
    inputs = _replayed(requests[:first_held], lengths[:first_held], words, quantile)
    model = exported(fitted(inputs, lengths[:first_held], quantile))
    constant = int(np.quantile(lengths[:first_held], quantile, method="higher"))
    predictors: dict[str, ResponseLength] = {
        "constant": Constant(constant),
        "history": History(quantile),
        "learned": Learned(model, words=lambda request: words[request.request_id]),
    }
    errors = {name: judge(each, requests, lengths, first_held) for name, each in predictors.items()}
    return Trained(model, errors, len(rows))


def _replayed(
    requests: Sequence[Request], lengths: Sequence[int], words: Mapping[str, Sequence[int]], quantile: float
) -> Any:
    """The features of each request, row by row, as they were when only those before it had ended."""
    history = History(quantile)
    inputs: Any = np.empty((len(requests), NUM_FEATURES), dtype=np.float32)
    for row, request, length in zip(inputs, requests, lengths, strict=True):
        row[:] = features(request, history, words[request.request_id])
        history.observe(request, length)
    return inputs


def fitted(inputs: Any, lengths: Sequence[int], quantile: float) -> GradientBoostingRegressor:
    """Trees for the quantile of the logarithm: that of the length too, as a logarithm keeps the order.

    Few features a split and half the rows a tree: as exact on Alpaca as with all, in a tenth of the time.
    """
    regressor = GradientBoostingRegressor(
        loss="quantile",
        alpha=quantile,
        n_estimators=200,
        max_depth=4,
        min_samples_leaf=10,
        subsample=0.5,
        max_features=0.1,
        random_state=0,
    )
    return regressor.fit(inputs, [log_tokens(length) for length in lengths])


def exported(regressor: GradientBoostingRegressor) -> LengthModel:
    """The same trees as lists; the learning rate is in their leaves."""
    trees = [_tree(each.tree_, regressor.learning_rate) for each in regressor.estimators_[:, 0]]
    baseline = float(regressor.init_.constant_[0, 0])
    return LengthModel(float(regressor.alpha), baseline, trees)


def _tree(grown: Any, learning_rate: float) -> Tree:
    return Tree(
        feature=grown.feature.tolist(),
        threshold=grown.threshold.tolist(),
        left=grown.children_left.tolist(),
        right=grown.children_right.tolist(),
        value=(grown.value[:, 0, 0] * learning_rate).tolist(),
    )


def judge(
    predictor: ResponseLength, requests: Sequence[Request], lengths: Sequence[int], first_judged: int = 0
) -> dict[str, float]:
    """The error from `first_judged` on when each request ends before the next one comes."""
    measured = Measured(predictor)
    for number, (request, length) in enumerate(zip(requests, lengths, strict=True)):
        if number == first_judged:
            measured.error = LengthError()
        measured.predict(request, 0)
        measured.observe(request, length)
    return measured.error.figures()
