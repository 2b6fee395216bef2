"""Every predictor stays in bounds; the history's quantile is the one a recount gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brim.core.errors import ConfigError
from brim.core.estimators.response_length import PRIOR_TOKENS, AtMost, History, padded
from brim.core.request import Request, SamplingParams, TaskClass

GROUPS = ("job:a", "job:b", "tenant:x")
LIMIT = 4096


def asked(
    *keys: str, max_tokens: int = LIMIT, request_id: str = "r", task_class: TaskClass = TaskClass.ONLINE
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Request(request_id, (1, 2, 3), sampling, task_class, length_keys=keys)


def taught(lengths: Sequence[int], *keys: str, **options: Any) -> History:
    history = History(**options)
    for length in lengths:
        history.observe(asked(*keys), length)
    return history


histories = st.lists(st.tuples(st.sets(st.sampled_from(GROUPS)), st.integers(1, 300)), max_size=120)


@given(histories, st.sets(st.sampled_from(GROUPS)), st.integers(0, 400), st.integers(1, 500))
def test_a_prediction_is_over_what_there_is_and_within_the_limit(
    told: list[tuple[set[str], int]], keys: set[str], generated: int, max_tokens: int
) -> None:
    request = asked(*sorted(keys), max_tokens=max_tokens)
    generated = min(generated, max_tokens - 1)
    history = History(min_lengths=3)
    for groups, length in told:
        history.observe(asked(*sorted(groups)), length)
    for predictor in (AtMost(), history):
        predicted = predictor.predict(request, generated)
        assert generated < predicted <= max_tokens
        assert predictor.predict(request, generated) == predicted  # asking changes nothing


@given(
    st.lists(st.tuples(st.sampled_from(GROUPS), st.integers(1, 60)), max_size=150),
    st.floats(0.05, 0.95),
    st.integers(0, 60),
    st.integers(4, 12),
)
def test_a_quantile_is_the_one_a_recount_gives(
    told: list[tuple[str, int]], quantile: float, generated: int, window: int
) -> None:
    history = History(quantile, min_lengths=4, window=window)
    for key, length in told:
        history.observe(asked(key), length)
    for key in GROUPS:
        mine = [length for group, length in told if group == key][-window:]
        everyone = [length for _, length in told][-window:]
        expected = recount([mine, everyone], quantile, generated)
        assert history.expected(asked(key), generated, quantile) == expected


def recount(groups: list[list[int]], quantile: float, generated: int) -> int | None:
    """By definition: the least length that enough of the longer ones do not exceed."""
    known = [lengths for lengths in groups if len(lengths) >= 4]
    for lengths in known:
        longer = sorted(length for length in lengths if length > generated)
        if longer:
            wanted = min(math.ceil(quantile * (len(longer) + 1)), len(longer))
            return next(v for v in longer if sum(each <= v for each in longer) >= wanted)
    return 2 * generated if known else None


def test_before_anything_is_known_the_prior_counts_up_to_the_limit() -> None:
    history = History()
    assert history.predict(asked(), 0) == PRIOR_TOKENS
    assert history.predict(asked(max_tokens=100), 0) == 100
    assert history.predict(asked(), PRIOR_TOKENS) == 2 * PRIOR_TOKENS


def test_the_most_specific_group_that_knows_enough_decides() -> None:
    history = taught([10] * 20, "job:a", "tenant:x")
    for _ in range(19):
        history.observe(asked("job:b", "tenant:x"), 100)
    assert history.predict(asked("job:a", "tenant:x"), 0) == 10
    assert history.predict(asked("job:b", "tenant:x"), 0) == 100  # as the tenant's: the job has 19
    history = taught([10] * 20, "job:a", "tenant:x")
    assert history.predict(asked("job:c", "tenant:x"), 0) == 10
    assert history.predict(asked("tenant:y"), 0) == 10  # as the class
    assert history.predict(asked(task_class=TaskClass.OFFLINE), 0) == PRIOR_TOKENS


def test_limits_of_another_size_are_another_group() -> None:
    history = taught([200] * 20)
    for _ in range(200):
        history.observe(asked(max_tokens=16), 16)
    assert history.predict(asked(), 0) == 200


def test_what_is_outgrown_is_predicted_from_the_longer_ones() -> None:
    history = taught([10] * 90 + [100] * 10, "job:a")
    assert history.predict(asked("job:a"), 0) == 10
    assert history.predict(asked("job:a"), 9) == 10
    assert history.predict(asked("job:a"), 10) == 100
    assert history.predict(asked("job:a"), 100) == 200  # longer than any: twice as long each time
    assert history.predict(asked("job:a"), 200) == 400


def test_old_lengths_leave_the_window() -> None:
    history = taught([500] * 300 + [20] * 256, "job:a", window=256)
    assert history.predict(asked("job:a"), 0) == 20
    assert history.predict(asked("job:a"), 20) == 40


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(3, 8))
def test_groups_are_bounded_and_the_latest_are_kept(jobs: list[int], max_groups: int) -> None:
    history = History(min_lengths=1, max_groups=max_groups)
    for job in jobs:
        history.observe(asked(f"job:{job}"), 1000 + job)
    assert history.num_groups <= max_groups
    latest = list(dict.fromkeys(reversed(jobs)))[: max_groups - 2]  # two are the class's
    for job in latest:
        assert history.predict(asked(f"job:{job}"), 0) == 1000 + job


@pytest.mark.parametrize(
    "options", [{"quantile": 0}, {"quantile": 1}, {"min_lengths": 0}, {"window": 5}, {"max_groups": 0}]
)
def test_options_that_can_not_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must"):
        History(**options)


tokens = st.integers(1, 2000)
pads = st.floats(0, 2)
buckets = st.integers(1, 64)


@given(tokens, pads, buckets, tokens, tokens)
def test_padding_promises_whole_buckets_and_no_less_than_predicted(
    predicted: int, pad: float, bucket: int, generated: int, max_tokens: int
) -> None:
    promised = padded(predicted, pad, bucket, generated, max_tokens)
    assert promised <= max_tokens
    if promised < max_tokens:
        assert promised >= max(predicted, generated + 1)
        assert promised % bucket == 0
        assert promised - bucket < generated + math.ceil(max(predicted - generated, 1) * (1 + pad)) + 1


@given(tokens, tokens, pads, pads, buckets, tokens, tokens)
def test_padding_keeps_the_order(
    a: int, b: int, pad: float, more: float, bucket: int, generated: int, max_tokens: int
) -> None:
    few, many = sorted((a, b))
    least = padded(few, pad, bucket, generated, max_tokens)
    assert least <= padded(many, pad, bucket, generated, max_tokens)
    assert least <= padded(few, pad + more, bucket, generated, max_tokens)


def test_padding_by_example() -> None:
    assert padded(100, 0.0, 16, 0, 4096) == 112
    assert padded(100, 0.15, 16, 0, 4096) == 128  # 115
    assert padded(100, 0.15, 16, 90, 4096) == 112  # 90 + 10 + 2
    assert padded(100, 0.15, 16, 0, 120) == 120
