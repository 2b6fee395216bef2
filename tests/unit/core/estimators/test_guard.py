"""The guard finds the share of steps that may take longer, whatever the noise is like."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.estimators.guard import FADE_STEPS, LATE_SHARE, MOST, RISE, Guard


def late_steps(guard: Guard, ratios: list[float]) -> int:
    """How many took longer than guarded when they were seen."""
    late = 0
    for ratio in ratios:
        late += ratio > 1 + guard.share
        guard.observe(ratio)
    return late


@given(st.lists(st.floats(0.2, 1 + MOST), max_size=2000), st.floats(0, 0.5))
def test_no_history_makes_more_steps_late_than_the_way_from_least_to_most(ratios, least):
    guard = Guard(least)
    fades = MOST / FADE_STEPS / RISE  # at most, in each step
    assert late_steps(guard, ratios) <= (LATE_SHARE + fades) * len(ratios) + (MOST - least) / RISE + 1
    assert least <= guard.share <= MOST


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.3])
def test_under_noise_few_steps_take_longer(sigma):
    draw = random.Random(0)
    guard = Guard(0.08)
    late_steps(guard, [draw.lognormvariate(0, sigma) for _ in range(5_000)])
    late = late_steps(guard, [draw.lognormvariate(0, sigma) for _ in range(20_000)])
    assert late <= 2 * LATE_SHARE * 20_000


def test_it_starts_with_caution_and_believes_a_few_hundred_steps():
    guard = Guard(0.08)
    late_steps(guard, [1.0, 1.02, 1.01])
    assert guard.share > 0.4
    late_steps(guard, [1.0, 1.02] * 200)
    assert guard.share < 0.1


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_a_few_hundred_steps_tell_what_would_take_thousands_to_see(sigma):
    """The share that may be late is beyond 3.3 deviations: never less, at most thrice that."""
    for seed in range(20):
        draw = random.Random(seed)
        guard = Guard(0.0)
        late_steps(guard, [draw.lognormvariate(0, sigma) for _ in range(300)])
        assert 3.3 * sigma < guard.share < 10 * sigma


def test_usual_is_what_one_step_in_twenty_exceeds():
    guard = Guard(0.08)
    assert guard.usual == 0.08
    late_steps(guard, [1 + i / 1000 for i in range(200)])
    assert guard.usual == pytest.approx(0.19)
    late_steps(guard, [0.9] * 512)
    assert guard.usual == 0


def test_it_comes_back_when_the_noise_is_over_and_not_below_what_it_started_from():
    guard = Guard(0.08)
    late_steps(guard, [1.4] * 10)
    assert guard.share > 0.3
    late_steps(guard, [1.0] * 10_000)
    assert guard.share == 0.08


@pytest.mark.parametrize("hiccup", [2.8, 4.0])
def test_a_rare_hiccup_does_not_wind_it_up(hiccup):
    """One step in a thousand: more than may be late, and beyond `MOST` nothing that a guard could mend."""
    guard, draw = Guard(0.08), random.Random(0)
    for _ in range(40):
        late_steps(guard, [hiccup, *(draw.lognormvariate(0, 0.03) for _ in range(999))])
    assert guard.share < 0.5


def test_what_no_guard_covers_is_left_out():
    guard, draw = Guard(0.08), random.Random(0)
    for step in range(1000):
        guard.observe(4.0 if step % 20 == 0 else draw.lognormvariate(0, 0.03))
        assert guard.share < (0.3 if step > 300 else 0.9)  # with caution at first


def test_frequent_hiccups_are_covered():
    guard, draw = Guard(0.08), random.Random(0)
    steps = [2.5 if draw.random() < 0.02 else 1.0 for _ in range(20_000)]
    late_steps(guard, steps[:5000])
    assert late_steps(guard, steps[5000:]) < 0.005 * 15_000
