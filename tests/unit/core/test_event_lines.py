"""Every event as one line of JSON that two equal runs share."""

import pytest

from brim.core.events import Admitted, Arrived, Event, Finished, FirstToken, Preempted, Tokens, line
from brim.core.plan import TokenLogprobs
from brim.core.request import FinishReason
from tests.helpers import OFFLINE, request, state

A, B = state(request("a")), state(request("b"))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            Arrived(1, 2, request("a", 5, task_class=OFFLINE)),
            '{"event": "arrived", "now_ns": 1, "num_prompt_tokens": 5, "request_id": "a", '
            '"step_id": 2, "task_class": "offline"}',
        ),
        (
            Admitted(1, 2, "a", 4, True),
            '{"cached_tokens": 4, "event": "admitted", "now_ns": 1, "request_id": "a", '
            '"resumed": true, "step_id": 2}',
        ),
        (
            Preempted(1, 2, "a", 4),
            '{"event": "preempted", "lost_tokens": 4, "now_ns": 1, "request_id": "a", "step_id": 2}',
        ),
        (
            FirstToken(1, 2, "a"),
            '{"event": "first_token", "now_ns": 1, "request_id": "a", "step_id": 2}',
        ),
        (
            Tokens(1, 2, (A, B), [7, 8], {"a": TokenLogprobs(7, -0.5)}),
            '{"drawn": [["a", 7], ["b", 8]], "event": "tokens", "now_ns": 1, "step_id": 2}',
        ),
        (
            Finished(1, 2, "a", FinishReason.ERROR, 3, "no\nluck"),
            '{"event": "finished", "message": "no\\nluck", "now_ns": 1, "num_output_tokens": 3, '
            '"reason": "error", "request_id": "a", "step_id": 2}',
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_an_event_is_one_line_with_sorted_keys(event, expected):
    assert line(event) == expected
