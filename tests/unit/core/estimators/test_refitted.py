"""The step time that is learnt while serving: it finds the machine, keeps what it knew, ignores hiccups."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brim.core.estimators.refitted import UNKNOWN, RefittedStepTime
from brim.core.estimators.step_error import StepError
from brim.core.estimators.step_ranges import Range, range_of
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs

PROFILE = StepTime(6_000_000_000, 8_000_000, ((256, 6_000_000),), 700, 2_000_000, 45_000)
MACHINE = StepTime(9_000_000_000, 15_000_000, ((256, 9_000_000),), 2_000, 0, 80_000, 20_000_000, 60_000)

SEEN = [
    *(StepShape(n, 0, n, n * context) for n in (1, 4, 16, 48) for context in (200, 800, 3000)),
    *(StepShape(n, attention_pairs(n, start)) for n in (40, 200, 400, 1000) for start in (0, 2000)),
    *(
        StepShape(n + d, attention_pairs(n, start), d, d * context)
        for n in (100, 500)
        for d, context in ((4, 500), (40, 1500))
        for start in (0, 2000)
    ),
]
BETWEEN = [  # never observed
    StepShape(30, 0, 30, 30 * 1000),
    StepShape(700, attention_pairs(700, 500)),
    StepShape(320, attention_pairs(300, 1000), 20, 20 * 700),
]


def took_ns(shape: StepShape, times: float = 1.0) -> int:
    return int(MACHINE.picoseconds(shape) / 1000 * times)


def error(step_time: RefittedStepTime, shape: StepShape, times: float = 1.0) -> float:
    return step_time.nanoseconds(shape) / took_ns(shape, times) - 1


def trained(start: StepTime | None = PROFILE, rounds: int = 40, seed: int = 0) -> RefittedStepTime:
    dice = random.Random(seed)
    step_time = RefittedStepTime(start)
    for _ in range(rounds):
        for shape in dice.sample(SEEN, len(SEEN)):
            step_time.observe(shape, int(took_ns(shape) * dice.gauss(1, 0.03)))
    return step_time


def test_without_a_step_it_is_what_it_started_from():
    shape = SEEN[-1]
    step_time = RefittedStepTime(PROFILE, guard=0.1)
    assert step_time.step_time == PROFILE
    assert step_time.nanoseconds(shape) == PROFILE.picoseconds(shape) // 1000
    assert step_time.seconds(shape) == PROFILE.seconds(shape)
    assert step_time.guarded_ns(shape) == PROFILE.picoseconds(shape) * 11 // 10_000


def test_from_nothing_it_knows_of_steps_up_to_twice_the_largest_seen():
    step_time = RefittedStepTime()
    assert step_time.known_tokens == 0
    for tokens in (100, 20):
        step_time.observe(StepShape(tokens, attention_pairs(tokens)), took_ns(StepShape(tokens)))
        assert step_time.known_tokens == 200
    assert RefittedStepTime(PROFILE).known_tokens is None


@pytest.mark.parametrize("start", [PROFILE, None], ids=["from-a-profile", "from-nothing"])
def test_it_finds_the_machine_and_what_lies_between_the_sizes_seen(start):
    step_time = trained(start)
    assert max(abs(error(step_time, shape)) for shape in SEEN + BETWEEN) < 0.05
    figures = step_time.error.figures()
    assert figures["p50"] < 0.03  # the noise alone has 0.02
    assert figures["p95"] < 0.08
    assert abs(figures["bias"]) < 0.01


def test_what_is_seen_counts_for_more_than_the_proportions_of_the_start():
    """Attention is 40 times as dear beside the products as the start says."""
    machine = StepTime(7_000_000_000, 220_000_000, (), 2_000_000, 0, 2_000_000)
    step_time = RefittedStepTime()
    for shape in SEEN * 20:
        step_time.observe(shape, machine.picoseconds(shape) // 1000)
    errors = [step_time.seconds(shape) / machine.seconds(shape) - 1 for shape in SEEN + BETWEEN]
    assert max(map(abs, errors)) < 0.02


def test_equal_histories_make_equal_fits():
    assert trained(seed=3).step_time == trained(seed=3).step_time


def test_an_unseen_prompt_keeps_the_proportions_of_the_start():
    """Decodes alone, three times as slow as the profile says: so will prompts be."""
    step_time = RefittedStepTime(PROFILE)
    for _ in range(100):
        for shape in SEEN[:12]:
            step_time.observe(shape, 3 * PROFILE.picoseconds(shape) // 1000)
    prompt = StepShape(1024, attention_pairs(1024))
    assert step_time.seconds(prompt) == pytest.approx(3 * PROFILE.seconds(prompt), rel=0.1)


def test_from_nothing_one_step_sets_the_scale():
    step_time = RefittedStepTime()
    decode = StepShape(4, 0, 4, 1000)
    step_time.observe(decode, took_ns(decode))
    assert error(step_time, decode) == pytest.approx(0, abs=0.1)
    prompt = StepShape(512, attention_pairs(512))
    expected = UNKNOWN.seconds(prompt) / UNKNOWN.seconds(decode) * took_ns(decode) / 1e9
    assert step_time.seconds(prompt) == pytest.approx(expected, rel=0.1)


def test_an_hour_of_decodes_does_not_make_it_forget_prompts():
    step_time = trained()
    dice = random.Random(1)
    for i in range(10_000):
        shape = StepShape(16, 0, 16, 16 * (200 + i % 600))
        step_time.observe(shape, int(took_ns(shape) * dice.gauss(1, 0.03)))
    assert max(abs(error(step_time, shape)) for shape in SEEN) < 0.06


def test_a_hiccup_changes_nothing():
    step_time = trained()
    before = step_time.step_time
    for shape in SEEN:
        step_time.observe(shape, 20 * took_ns(shape))
        step_time.observe(shape, took_ns(shape))
    step_time.refit()
    assert step_time.num_outliers == len(SEEN)
    changes = [step_time.seconds(shape) / before.seconds(shape) - 1 for shape in SEEN]
    assert max(map(abs, changes)) < 0.03


def test_a_first_step_that_compiles_is_forgotten():
    step_time = RefittedStepTime()
    for times in (20, 1, 1, 1, 1, 1):
        step_time.observe(SEEN[3], took_ns(SEEN[3], times))
    assert abs(error(step_time, SEEN[3])) < 0.1


@pytest.mark.parametrize(("times", "steps"), [(1.3, 40), (0.75, 40), (4.0, 3), (0.2, 3)])
def test_a_machine_that_changes_is_believed_soon_for_all_sizes(times, steps):
    step_time = trained()
    shape = SEEN[4]
    for _ in range(steps):
        step_time.observe(shape, took_ns(shape, times))
    assert abs(error(step_time, shape, times)) < 0.05
    assert max(abs(error(step_time, other, times)) for other in SEEN) < 0.1


@pytest.mark.parametrize("times", [0.7, 1.8])
def test_while_a_neighbour_is_busy_predictions_follow_within_a_few_steps(times):
    """In all sizes, by less than would be a hiccup; and back again."""
    step_time = trained()
    for busy in (times, 1.0):
        for shape in SEEN[3:11]:
            step_time.observe(shape, took_ns(shape, busy))
        for shape in SEEN:
            assert step_time.nanoseconds(shape) == pytest.approx(took_ns(shape, busy), rel=0.15)


def test_what_a_fit_from_nothing_gets_wrong_at_first_puts_no_margin_on_all_others():
    step_time = RefittedStepTime()
    for _ in range(30):
        for shape in SEEN:
            step_time.observe(shape, took_ns(shape))
    assert step_time.guard.share < 0.3


def test_a_range_that_changed_before_all_others_is_not_lengthened_twice():
    step_time = trained(rounds=10)
    fresh = StepShape(3000, attention_pairs(3000))
    for _ in range(4):
        step_time.observe(fresh, took_ns(fresh, 4))
    for _ in range(4):
        step_time.observe(SEEN[4], took_ns(SEEN[4], 4))
    step_time.refit()
    assert abs(error(step_time, fresh, 4)) < 0.1
    outliers = step_time.num_outliers
    step_time.observe(fresh, took_ns(fresh, 4))
    assert step_time.num_outliers == outliers


def test_a_size_that_the_formula_cannot_meet_is_no_sign_of_a_change():
    """A kernel that takes three times as long at one size: neither a hiccup nor a slower machine."""
    odd, step_time = StepShape(6, 0, 6, 6 * 500), trained()
    for _ in range(60):
        step_time.observe(odd, took_ns(odd, 3))
        step_time.observe(SEEN[-1], took_ns(SEEN[-1]))
    outliers, before = step_time.num_outliers, step_time.step_time
    for _ in range(20):
        step_time.observe(odd, took_ns(odd, 3))
    assert step_time.num_outliers == outliers
    far = StepShape(1000, attention_pairs(1000))
    assert step_time.seconds(far) == pytest.approx(before.seconds(far), rel=0.02)


def test_to_refit_without_a_step_changes_nothing():
    step_time = RefittedStepTime(PROFILE)
    step_time.refit()
    assert step_time.step_time == PROFILE


def test_an_empty_step_and_one_without_a_duration_teach_nothing():
    step_time = RefittedStepTime(PROFILE)
    step_time.observe(StepShape(0), 1_000_000)
    step_time.observe(StepShape(4, 0, 4, 100), 0)
    assert step_time.step_time == PROFILE
    assert step_time.error.figures() == {"steps": 0, "p50": 0.0, "p95": 0.0, "bias": 0.0}


def test_errors_are_judged_by_what_was_predicted_before():
    error = StepError()
    for ratio in (9.0, *(1.1, 0.8, 1.2, 1.0) * 128):  # the latest 512
        error.add(ratio)
    figures = error.figures()
    assert figures["steps"] == 513
    assert figures["p50"] == pytest.approx(0.2)
    assert figures["p95"] == pytest.approx(0.2)
    assert figures["bias"] == pytest.approx(0.1)


@pytest.mark.parametrize("knee", [32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048])
def test_no_knee_of_a_profile_lies_inside_a_range(knee):
    assert range_of(StepShape(knee - 1)) != range_of(StepShape(knee))


def test_a_range_not_seen_for_long_counts_for_less():
    seen = Range()
    for now in range(95, 101):
        seen.learn(StepShape(4, 0, 4, 100), took_ps=10, now=now)
    assert seen.weight(100) == 6
    assert seen.weight(100 + 4096) == 3


def test_changes_of_changes_leave_something_to_divide_by():
    seen = Range()
    seen.learn(StepShape(4, 0, 4, 100), took_ps=10, now=1)
    for factor in [1e-30] * 40 + [1e30] * 80 + [1e-30] * 80:
        seen.lengthen(factor)
        assert 0 < seen.took_ps < math.inf
    seen.bias = 3.0
    for factor in [1e300, 1e-300, 1e300]:
        seen.lengthen(factor)
        assert 0 < seen.bias < math.inf


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_steps_of_any_duration_can_be_learnt_from(rng):
    step_time = RefittedStepTime(StepTime(0, 1, (), 0, 0, 0))
    for _ in range(200):
        tokens = rng.choice([1, 2, 300, 10**6])
        shape = StepShape(tokens, 0, tokens, tokens * rng.choice([1, 10**6]))
        step_time.observe(shape, rng.choice([1, 10 ** rng.randint(0, 15)]))
        assert step_time.guarded_ns(shape) >= step_time.nanoseconds(shape) >= 0
