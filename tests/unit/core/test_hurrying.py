"""Which first tokens can still be in time, and what their prompts may have: 10 ms a step, 1 ms a token."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from brim.core.estimators.due_times import pacing
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.slack import OnlineStep, PromptWork
from brim.core.estimators.step_time import StepTime
from brim.core.policies.hurrying import FirstTokens
from brim.core.policies.timing import BySlack
from brim.core.request import SLO, Request
from tests.helpers import MS

PS = 1_000_000_000  # in a millisecond
RULE = FirstTokens()


def timing(**targets_ms: int) -> BySlack:
    """One answer decodes, its first token drawn at 0 and its second due; with no target nobody decodes."""
    rule = BySlack(RefittedStepTime(StepTime(10 * PS, PS, (), 0, 0, 0), guard=0.0), 10_000)
    if targets_ms:
        slo = SLO(**{f"{name}_ns": ms * MS for name, ms in targets_ms.items()})
        rule.watch.dues.pace("d", pacing(Request("d", [1], slo=slo), 0, 100), 0)
        rule.watch.dues.start("d", 1, 0)
    return rule


def prompt(tokens: int, due_ms: int | None) -> PromptWork:
    return PromptWork("p", None if due_ms is None else due_ms * MS, 0, tokens)


def tokens(rule: BySlack, *prompts: PromptWork, most: int = 1000) -> int:
    step = OnlineStep(0, 0, 0, 0, len(rule.watch.dues), 0, prompts)
    return RULE.prompt_tokens(rule, step, most)


def test_late_is_who_would_not_be_in_time_alone_and_at_once():
    step = OnlineStep(0, 5 * MS, 5 * MS, 0, 2)
    assert not RULE.is_late(timing(), step, prompt(10, 27))
    assert RULE.is_late(timing(), step, prompt(10, 26))
    assert RULE.is_late(timing(), step, prompt(10, -1))
    assert not RULE.is_late(timing(), step, prompt(10, None))


def test_what_those_who_decode_bear_is_enough_where_nobody_is_in_a_hurry():
    assert tokens(timing(tpot=50)) == 39
    assert tokens(timing(tpot=50), prompt(60, None)) == 39
    assert tokens(timing(tpot=50), prompt(60, 500)) == 39
    assert tokens(timing(), prompt(60, None)) == 1000


def test_a_prompt_is_whole_where_it_would_be_late_in_chunks():
    assert tokens(timing(tpot=50), prompt(60, 82)) == 39  # 50 and 32 ms
    assert tokens(timing(tpot=50), prompt(60, 81)) == 60
    assert tokens(timing(tpot=50), prompt(60, 81), most=59) == 39  # the step has no room


def test_a_whole_prompt_makes_no_answer_late():
    assert tokens(timing(tpot=50), prompt(139, 150)) == 139  # three tokens may come together
    assert tokens(timing(tpot=50), prompt(140, 151)) == 39
    assert tokens(timing(tpot=50, itl=60), prompt(49, 70)) == 49
    assert tokens(timing(tpot=50, itl=60), prompt(60, 80)) == 39


def test_who_comes_behind_leaves_the_prompt_in_time():
    assert tokens(timing(), prompt(60, 100), prompt(60, None)) == 90
    assert tokens(timing(), prompt(60, 100), prompt(10, 90), prompt(60, None)) == 80
    assert tokens(timing(), prompt(60, None), prompt(60, None)) == 1000


def test_the_late_get_the_pace_and_no_more():
    rule = timing(tpot=50)
    rule.watch.dues.start("d", 1, -1)  # a token in hand: 100 ms
    assert tokens(rule, prompt(200, None)) == 89
    assert tokens(rule, prompt(200, 20)) == 37
    assert tokens(rule, prompt(20, 31), prompt(200, 5)) == 20
    assert tokens(timing(tpot=9), prompt(200, 5)) == 5  # nothing keeps such a pace, but twice that
    assert tokens(timing(tpot=5), prompt(200, 5)) == 1000
    assert tokens(timing(), prompt(200, 5)) == 1000


def test_every_so_many_steps_are_for_who_waited_longest():
    assert [tick for tick in range(40) if RULE.is_turn(tick)] == [0, 16, 32]


works = st.builds(prompt, st.integers(1, 120), st.none() | st.integers(-50, 400))


@given(
    st.sampled_from([{}, {"tpot": 30}, {"tpot": 60}, {"itl": 40}, {"tpot": 60, "itl": 70}]), st.lists(works)
)
def test_who_ends_in_the_step_is_in_time_if_he_would_be_alone(targets, prompts):
    rule = timing(**targets)
    decodes = len(rule.watch.dues)
    given_tokens = tokens(rule, *prompts)
    assert 1 <= given_tokens <= 1000
    bearable = rule.prompt_tokens(OnlineStep(0, 0, 0, 0, decodes), 1000)
    end_ms, ended = 10 + decodes, 0
    for work in prompts:
        ended += work.num_tokens
        if ended > given_tokens:
            break
        end_ms += work.num_tokens
        took_ms = 10 + decodes + min(given_tokens, sum(w.num_tokens for w in prompts))
        due_ms = None if work.due_ns is None else work.due_ns // MS
        if due_ms is not None and end_ms <= due_ms:
            assert took_ms <= due_ms
    if given_tokens > bearable:  # for the sake of one prompt, and no answer is late for it
        assert given_tokens == prompts[0].num_tokens
        assert (10 + decodes + given_tokens) * MS <= rule.watch.dues.least_for_first_tokens(0, 0)
