"""What may arrive: the tightest target of late, and as many tokens as Poisson arrivals seldom bring."""

import random

import pytest

from brim.core.estimators.arrivals import Arrivals
from brim.core.estimators.step_time import attention_pairs

SECOND = 1_000_000_000


def test_a_tighter_target_seen_of_late_counts_for_the_next_arrival():
    arrivals = Arrivals(1000)
    assert (arrivals.ttfts_ns(), arrivals.prompt_tokens(0, 0)) == ([1000], 1)
    for at, ttft_ns in enumerate((300, *[None] * 254, 2000)):
        arrivals.observe(at, ttft_ns, 21)
    assert arrivals.ttfts_ns() == [300, 1000, 2000]
    assert arrivals.ttfts_ns(least_ns=301) == [1000, 2000]
    arrivals.observe(256, None, 0)
    assert arrivals.ttfts_ns() == [1000, 2000]
    assert Arrivals().ttfts_ns() == []


def test_of_a_target_that_came_seldom_little_is_known():
    arrivals = Arrivals()
    for at in range(8):
        arrivals.observe(at, 300, 21)
    assert not arrivals.few(300)
    assert not arrivals.few(5_000)  # of no such target all tell
    arrivals.observe(9, 5_000, 21)
    assert arrivals.few(5_000)


def test_of_targets_between_two_powers_of_two_the_tightest_counts():
    arrivals = Arrivals(300)
    for at, ttft_ns in enumerate((511, 400, 257)):
        arrivals.observe(at, ttft_ns, 21)
    assert arrivals.ttfts_ns() == [257]
    assert arrivals.ttfts_ns(least_ns=258) == [300]  # a configured one counts, and none that can't be met


def test_who_is_in_a_hurry_has_a_prompt_like_others_in_a_hurry():
    arrivals = Arrivals()
    for at in range(100):
        arrivals.observe(at * SECOND, 8 * SECOND, 8_000)
    arrivals.observe(100 * SECOND, SECOND, 50)
    now_ns = 100 * SECOND
    assert arrivals.prompt_tokens(0, now_ns, SECOND) == arrivals.prompt_pairs(50, SECOND) // 51 * 2 == 50
    assert arrivals.prompt_tokens(0, now_ns, 8 * SECOND) == 8_000
    assert arrivals.prompt_tokens(0, now_ns, 64 * SECOND) == arrivals.prompt_tokens(0, now_ns) > 7_000
    others = arrivals.prompt_tokens(SECOND, now_ns, SECOND)  # whoever comes meanwhile may have a long one
    assert others > 8_000


def test_who_came_five_minutes_ago_is_forgotten():
    arrivals = Arrivals()
    arrivals.observe(0, 300, 21)
    arrivals.observe(9 * SECOND, 500, 21)
    arrivals.forget(300 * SECOND)
    assert arrivals.ttfts_ns() == [300]
    arrivals.forget(300 * SECOND + 1)
    assert (arrivals.ttfts_ns(), arrivals.prompt_tokens(0, 300 * SECOND)) == ([500], 21)
    arrivals.forget(1000 * SECOND)
    assert (arrivals.ttfts_ns(), arrivals.prompt_tokens(0, 1000 * SECOND)) == ([], 1)


def test_in_no_time_there_is_one_and_it_may_be_long():
    arrivals = Arrivals()
    for at, tokens in enumerate((10, 30)):
        arrivals.observe(at, None, tokens)
    assert arrivals.prompt_tokens(0, 100) == 37  # a mean of 20, and 1.64 deviations of 10


def test_only_the_latest_256_tell():
    arrivals = Arrivals()
    for at, tokens in enumerate((900, *[10] * 255)):
        arrivals.observe(at, None, tokens)
    assert arrivals.prompt_tokens(0, 300) > 100
    arrivals.observe(256, None, 10)
    assert arrivals.prompt_tokens(0, 300) == 10


def test_who_comes_seldom_is_not_expected_soon():
    arrivals = Arrivals()
    for at in range(3):
        arrivals.observe(at * SECOND, None, 100)
    assert arrivals.prompt_tokens(SECOND // 100, 4 * SECOND) < 120
    assert arrivals.prompt_tokens(SECOND // 100, 4 * SECOND) > arrivals.prompt_tokens(
        SECOND // 100, 400 * SECOND
    )
    assert arrivals.prompt_tokens(10 * SECOND, 4 * SECOND) > 500


@pytest.mark.parametrize("span_seconds", [0.05, 0.3, 2.0])
def test_seldom_more_arrive(span_seconds):
    draw, at = random.Random(1), 0.0
    times: list[tuple[float, int]] = []
    while len(times) < 4000:
        at += draw.expovariate(5.0)
        times.append((at, draw.randint(16, 64)))
    arrivals, more = Arrivals(), 0
    for first, (now, tokens) in enumerate(times[:-100]):
        come = sum(n for t, n in times[first : first + 50] if t <= now + span_seconds)
        more += first > 256 and come > arrivals.prompt_tokens(int(span_seconds * SECOND), int(now * SECOND))
        arrivals.observe(int(now * SECOND), None, tokens)
    assert 0.01 < more / 3600 < 0.09


def test_a_token_attends_to_its_own_prompt_alone():
    arrivals = Arrivals()
    assert arrivals.prompt_pairs(1) == 1  # of nobody anything is known
    for at in range(8):
        arrivals.observe(at, None, 100)
    assert arrivals.prompt_pairs(60) == attention_pairs(60)
    assert arrivals.prompt_pairs(100) == attention_pairs(100)
    assert arrivals.prompt_pairs(5_000) == pytest.approx(50 * attention_pairs(100), rel=0.01)


@pytest.mark.parametrize("most_tokens", [64, 4000])
def test_as_many_pairs_as_prompts_have_that_are_not_alike(most_tokens):
    draw, arrivals = random.Random(1), Arrivals()
    lengths = [draw.randint(16, most_tokens) for _ in range(256)]
    for at, tokens in enumerate(lengths):
        arrivals.observe(at, None, tokens)
    assert arrivals.prompt_pairs(sum(lengths)) == pytest.approx(sum(map(attention_pairs, lengths)), rel=0.02)
    longest = arrivals.prompt_tokens(0, 256)
    assert arrivals.prompt_pairs(longest) == attention_pairs(longest)


def test_a_token_attends_to_what_was_cached_of_its_prompt():
    arrivals = Arrivals()
    for at in range(8):
        arrivals.observe(at, None, 100, cached_tokens=1_000)
    assert arrivals.prompt_pairs(100) == attention_pairs(100, 1_000)
    assert arrivals.prompt_pairs(5_000) == pytest.approx(50 * attention_pairs(100, 1_000), rel=0.01)
