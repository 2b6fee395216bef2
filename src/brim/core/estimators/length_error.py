"""How wrong the length predictor in use is: the same figures for each of them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from brim.core.estimators.response_length import ResponseLength
from brim.core.request import Request

MAX_OPEN = 65_536  # requests that are aborted are never observed: the oldest are forgotten beyond this


@dataclass(slots=True)
class LengthError:
    """Sums over the requests judged so far; all tokens are output tokens."""

    requests: int = 0
    absolute_tokens: int = 0
    over_tokens: int = 0  # predicted and never generated
    within_50: int = 0
    within_100: int = 0
    under: int = 0  # requests that got longer than predicted

    def add(self, predicted: int, actual: int) -> None:
        error = predicted - actual
        self.requests += 1
        self.absolute_tokens += abs(error)
        self.over_tokens += max(error, 0)
        self.within_50 += abs(error) <= 50
        self.within_100 += abs(error) <= 100
        self.under += error < 0

    def figures(self) -> dict[str, float]:
        """Means over all requests, over-prediction too: an under-prediction counts there as 0."""
        count = max(self.requests, 1)
        return {
            "requests": self.requests,
            "mean_absolute_tokens": self.absolute_tokens / count,
            "share_within_50": self.within_50 / count,
            "share_within_100": self.within_100 / count,
            "share_under_predicted": self.under / count,
            "mean_over_tokens": self.over_tokens / count,
        }


class FirstPredictions:
    """The first number kept for each request under way."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def keep(self, request: Request, predicted: float) -> None:
        self._open.setdefault(request.request_id, predicted)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    def of(self, request: Request) -> float | None:
        return self._open.get(request.request_id)

    def take(self, request: Request) -> float | None:
        """The number, which is then forgotten; None where there is none."""
        return self._open.pop(request.request_id, None)


class Measured:
    """Any predictor, and its error. What is judged is the first prediction of a request, at its admission."""

    def __init__(self, predictor: ResponseLength) -> None:
        self.predictor = predictor
        self.error = LengthError()
        self._first = FirstPredictions()

    def predict(self, request: Request, generated: int) -> int:
        predicted = self.predictor.predict(request, generated)
        self._first.keep(request, predicted)
        return predicted

    def observe(self, request: Request, num_output_tokens: int) -> None:
        predicted = self._first.take(request)
        if predicted is not None:
            self.error.add(int(predicted), num_output_tokens)
        self.predictor.observe(request, num_output_tokens)
