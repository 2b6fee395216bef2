"""The step-time formula: exact, convex in the tokens, linear in the context."""

import pytest

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs

TIME = StepTime(1000, 2, ((4, 3), (8, 5)), 7, 11, 13, 17, 19)


def test_pairs_count_what_each_token_of_a_chunk_attends_to():
    assert attention_pairs(3) == 1 + 2 + 3
    assert attention_pairs(3, start=10) == 11 + 12 + 13
    assert attention_pairs(2) + attention_pairs(3, start=2) == attention_pairs(5)


@pytest.mark.parametrize(
    ("shape", "picoseconds"),
    [
        (StepShape(4, attention_pairs(4)), 1000 + 2 * 4 + 7 * 10),
        (StepShape(9), 1000 + 2 * 9 + 3 * 5 + 5 * 1),
        (StepShape(2, 0, 2, 30), 1000 + 2 * 2 + 11 * 2 + 13 * 30),
        (StepShape(3, 1, 2, 30), 1000 + 2 * 3 + 7 + (11 + 17) * 2 + (13 + 19) * 30),
    ],
    ids=["prefill", "beyond-both-knees", "decode", "mixed"],
)
def test_each_size_has_its_term(shape, picoseconds):
    assert TIME.picoseconds(shape) == picoseconds
    assert TIME.seconds(shape) == picoseconds / 1e12


def test_a_quiet_stretch_is_a_line_that_sums_in_closed_form():
    fixed, per_context = TIME.line(6)
    stepped = sum(TIME.picoseconds(StepShape(6, 0, 6, 100 + 6 * step)) for step in range(50))
    assert stepped == 50 * fixed + per_context * sum(100 + 6 * step for step in range(50))


def test_the_target_forward_size_is_the_smallest_that_reaches_the_share():
    time = StepTime(1_000_000, 0, ((100, 10_000),), 0, 0, 0)  # flat to 100 tokens, then linear

    def rate(tokens: int) -> float:
        return tokens / time.seconds(StepShape(tokens))

    found = time.target_forward_tokens(share=0.95, largest=1000)
    assert rate(found) >= 0.95 * rate(100) > rate(found - 1)
    assert StepTime(1000, 0, (), 0, 0, 0).target_forward_tokens(share=1.0, largest=64) == 64


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ((1, 1, (), -1, 0, 0), "negative"),
        ((1, 1, ((4, -1),), 0, 0, 0), "negative"),
        ((1, 1, (), 0, 0, 0, -1, 0), "negative"),
        ((1, 1, (), 0, 0, 0, 0, -1), "negative"),
        ((1, 1, ((8, 1), (4, 1)), 0, 0, 0), "rising"),
        ((0, 0, (), 1, 1, 1), "no time"),
    ],
)
def test_coefficients_that_mean_nothing_are_refused(coefficients, message):
    with pytest.raises(ConfigError, match=message):
        StepTime(*coefficients)
