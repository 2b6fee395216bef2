"""The quick way to append drawn tokens is the plain one, whoever draws and in which steps."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from brim.core.appending import Appender
from brim.core.request import RequestState
from tests.helpers import request, state

STOP = 1
STEPS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 3), min_size=1),  # who draws
        st.integers(1, 5),  # in so many steps
        st.booleans(),  # those at once, without a look at the last tokens
        st.sampled_from([0, 0, 0, STOP]),  # what the first of them draws in the last step
    ),
    max_size=8,
)


def requests() -> list[RequestState]:
    """One stops at once, one after two tokens; the limits are 3 to 12."""
    stops = {"stop_token_ids": frozenset({STOP})}
    made = [
        state(request("a", 2, max_tokens=12, **stops)),
        state(request("b", 2, max_tokens=3, **stops)),
        state(request("c", 2, max_tokens=6)),
        state(request("d", 2, max_tokens=8, min_tokens=2, **stops)),
    ]
    for one in made:
        one.admit(0)
    return made


@given(STEPS)
def test_it_is_the_plain_loop(steps: list[tuple[set[int], int, bool, int]]) -> None:
    appender, quick, plain, over = Appender(), requests(), requests(), set()
    for who, times, at_once, last in steps:
        there = sorted(who - over)
        if not there:
            continue
        rows = tuple(quick[i] for i in there)
        if at_once:
            times = min(plain[i].max_num_tokens - plain[i].num_tokens for i in there) - 1
            appender.extend(rows, [0] * times)
            for i in there:
                plain[i].known += [0] * times
            times = 1
        for step in range(times):
            token_ids = [last if step == times - 1 else 0] + [0] * (len(there) - 1)
            ended = appender.append(rows, token_ids)
            expected = RequestState.append_each([plain[i] for i in there], token_ids)
            assert [quick.index(one) for one in ended] == [plain.index(one) for one in expected]
            if ended:
                over |= {quick.index(one) for one in ended}
                break
    assert [one.token_ids for one in quick] == [one.token_ids for one in plain]
