"""The same figures for every predictor, from the first prediction of a request."""

from __future__ import annotations

import pytest

from brim.core.estimators.length_error import MAX_OPEN, FirstPredictions, LengthError, Measured
from brim.core.request import Request
from tests.unit.core.estimators.test_response_length import asked


def test_figures() -> None:
    error = LengthError()
    for predicted, actual in ((100, 100), (150, 100), (201, 100), (40, 100)):
        error.add(predicted, actual)
    assert error.figures() == {
        "requests": 4,
        "mean_absolute_tokens": (0 + 50 + 101 + 60) / 4,
        "share_within_50": 0.5,
        "share_within_100": 0.75,
        "share_under_predicted": 0.25,
        "mean_over_tokens": (50 + 101) / 4,
    }


def test_figures_of_nothing_are_zero() -> None:
    assert set(LengthError().figures().values()) == {0}


class Counting:
    """Predicts one more each time."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: list[int] = []

    def predict(self, request: Request, generated: int) -> int:
        self.asked += 1
        return self.asked

    def observe(self, request: Request, num_output_tokens: int) -> None:
        self.told.append(num_output_tokens)


def test_the_first_prediction_is_judged() -> None:
    counting = Counting()
    measured = Measured(counting)
    first, other = asked(request_id="a"), asked(request_id="b")
    assert [measured.predict(first, 0), measured.predict(first, 5), measured.predict(other, 0)] == [1, 2, 3]
    measured.observe(first, 11)
    measured.observe(other, 3)
    measured.observe(other, 3)  # judged once
    assert measured.error == LengthError(requests=2, absolute_tokens=10, within_50=2, within_100=2, under=1)
    assert counting.told == [11, 3, 3]


@pytest.mark.parametrize("more", [-1, 0, 7])
def test_what_is_never_observed_is_forgotten(more: int) -> None:
    first, count = FirstPredictions(), MAX_OPEN + more
    for number in range(count):
        first.keep(asked(request_id=str(number)), number)
    assert len(first) == min(count, MAX_OPEN)
    assert first.take(asked(request_id=str(count - 1))) == count - 1
    assert first.take(asked(request_id="0")) == (0 if more <= 0 else None)
