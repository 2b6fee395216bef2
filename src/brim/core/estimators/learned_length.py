"""A length predictor that reads the prompt: regression trees over a few features, evaluated in plain Python.

The trees are fitted by `brim profile train-lengths` and kept as JSON. Their features hold what `History`
knows of the request's groups at that moment, so a model outlives the groups it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from brim.core.errors import ConfigError
from brim.core.estimators.length_error import FirstPredictions
from brim.core.estimators.response_length import History, bounded
from brim.core.request import Request

FORMAT = "brim-length-model-1"
WORDS = 1024  # buckets of token ids
WORD_TOKENS = 64  # of the prompt's beginning and of its end, each
TYPICAL = (0.5, 0.7, 0.9)  # quantiles of the history that are features
FEATURES = (  # and one for each bucket
    "log2_prompt_tokens",
    "log2_max_tokens",
    "offline",
    "temperature",
    *(f"log2_history_{quantile}" for quantile in TYPICAL),
)
NUM_FEATURES = len(FEATURES) + WORDS
_STEP = 0.02  # by how much one answer moves the logarithm of the correction
_LARGEST_CORRECTION = math.log(8)


def prompt_words(request: Request) -> list[int]:
    """Which buckets the prompt's first and last tokens fall into: a trace of its words, but no text."""
    tokens = request.prompt_token_ids
    ends = (*tokens[:WORD_TOKENS], *tokens[max(WORD_TOKENS, len(tokens) - WORD_TOKENS) :])
    return sorted({(token_id * 2_654_435_761 >> 16) % WORDS for token_id in ends})


def features(request: Request, history: History, words: Sequence[int]) -> list[float]:
    """The values of `FEATURES`, then 1 for each bucket in `words`; all of them exact in single precision."""
    known = [
        log_tokens(len(request.prompt_token_ids)),
        log_tokens(request.sampling.max_tokens),
        float(request.is_offline),
        round(request.sampling.temperature * 64) / 64,
        *(log_tokens(history.expected(request, 0, quantile) or 0) for quantile in TYPICAL),
    ]
    values = known + [0.0] * WORDS
    for bucket in words:
        values[len(known) + bucket] = 1.0
    return values


def log_tokens(tokens: int) -> float:
    """log2(1 + tokens) in steps of 1/64: single precision holds it, so that training sees the same value."""
    return round(math.log2(1 + tokens) * 64) / 64


@dataclass(frozen=True, slots=True)
class Tree:
    """A regression tree as parallel lists by node, the root first; `left` is -1 at a leaf."""

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    value: list[float]

    def at(self, features: Sequence[float]) -> float:
        node = 0
        while (left := self.left[node]) >= 0:
            low = features[self.feature[node]] <= self.threshold[node]
            node = left if low else self.right[node]
        return self.value[node]

    def check(self) -> None:
        """Raises ValueError unless every walk from the root ends at a leaf."""
        size = len(self.value)
        if not size or {len(self.feature), len(self.threshold), len(self.left), len(self.right)} != {size}:
            raise ValueError("a tree's lists differ in length")
        if not all(map(math.isfinite, self.value)):
            raise ValueError("a tree's value is not finite")
        for node, left in enumerate(self.left):
            if left < 0:
                continue
            forward = node < left < size and node < self.right[node] < size
            if not forward or not 0 <= self.feature[node] < NUM_FEATURES:
                raise ValueError(f"node {node} of a tree leads nowhere")


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Boosted trees whose sum is log2(1 + tokens) at one quantile."""

    quantile: float
    baseline: float
    trees: list[Tree]

    def tokens(self, features: Sequence[float]) -> float:
        """Predicted output tokens, from 0 up, not yet whole ones."""
        log2 = self.baseline + sum(tree.at(features) for tree in self.trees)
        return max(0.0, math.exp2(min(log2, 31.0)) - 1)

    def to_json(self, **notes: Any) -> str:
        """The model as text, with `notes` that nothing reads but people."""
        trees = [{name: getattr(tree, name) for name in Tree.__slots__} for tree in self.trees]
        facts = {**notes, "format": FORMAT, "features": FEATURES, "words": WORDS, "quantile": self.quantile}
        return json.dumps({**facts, "baseline": self.baseline, "trees": trees})

    @classmethod
    def from_json(cls, text: str) -> LengthModel:
        """Raises ConfigError for what `to_json` of this version did not write."""
        try:
            stored = json.loads(text)
            if (stored["format"], tuple(stored["features"]), stored["words"]) != (FORMAT, FEATURES, WORDS):
                raise ValueError("it was written by another version")
            trees = [Tree(**{name: tree[name] for name in Tree.__slots__}) for tree in stored["trees"]]
            for tree in trees:
                tree.check()
            return cls(float(stored["quantile"]), float(stored["baseline"]), trees)
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(
                f"this is no length model ({exc}): make one with `brim profile train-lengths`"
            ) from exc


class Learned:
    """Asks the model at admission, and `history` once a request has outgrown that.

    It counts whether its answers were long enough as often as the model's quantile says, and scales its
    predictions until they are: after each answer by `exp(0.02 * quantile)` up where it was too short, by
    `exp(0.02 * (1 - quantile))` down where it was not (adaptive conformal inference, Gibbs and Candes
    2021), from 1/8 to 8. A request's `words` are part of the features.
    """

    def __init__(
        self,
        model: LengthModel,
        history: History | None = None,
        words: Callable[[Request], Sequence[int]] = prompt_words,
    ) -> None:
        self._model = model
        self._history = history or History(model.quantile)
        self._words = words
        self._first = FirstPredictions()
        self._log_correction = 0.0

    @property
    def correction(self) -> float:
        """What the model's predictions are multiplied with."""
        return math.exp(self._log_correction)

    def predict(self, request: Request, generated: int) -> int:
        tokens = self._first.of(request)
        if tokens is None:
            words = self._words(request)
            tokens = self.correction * self._model.tokens(features(request, self._history, words))
            self._first.keep(request, tokens)
        if generated >= round(tokens):
            return self._history.predict(request, generated)
        return bounded(round(tokens), request, generated)

    def observe(self, request: Request, num_output_tokens: int) -> None:
        predicted = self._first.take(request)
        if predicted is not None:
            self._correct(predicted, num_output_tokens, request.sampling.max_tokens)
        self._history.observe(request, num_output_tokens)

    def _correct(self, predicted: float, actual: int, max_tokens: int) -> None:
        """An answer cut off by its limit tells nothing where more was predicted."""
        if actual >= max_tokens and round(predicted) >= max_tokens:
            return
        too_short = actual > round(predicted)
        moved = self._log_correction + _STEP * (too_short - (1 - self._model.quantile))
        self._log_correction = min(max(moved, -_LARGEST_CORRECTION), _LARGEST_CORRECTION)
