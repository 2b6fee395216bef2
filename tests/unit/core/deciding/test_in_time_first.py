"""Late first tokens give way: decide() on boards made by hand, and an overload in simulated time.

A step takes 10 ms and 1 ms a token, without a guard.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from brim.core.config import SchedulerConfig
from brim.core.decide import decide
from brim.core.deciding.draft import Draft
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.slack import OnlineStep, PromptWork
from brim.core.estimators.step_time import StepTime
from brim.core.events import Event, FirstToken
from brim.core.policies.hurrying import FirstTokens
from brim.core.policies.named import named
from brim.core.policies.timing import BySlack, Timing
from brim.core.policy import Policy
from brim.core.request import SLO, RequestState, RequestView
from brim.simulation.machine import Machine
from brim.simulation.run import Setup, simulate
from brim.simulation.targets import Targets
from brim.workloads.trace import Trace, TraceRequest
from tests.helpers import MS, OFFLINE, config
from tests.unit.core.test_decide import FakeBoard, views

STEP_TIME = StepTime(10 * 10**9, 10**9, (), 0, 0, 0)


def rules(settings: SchedulerConfig, **changes: object) -> Policy:
    timing = BySlack(RefittedStepTime(STEP_TIME, guard=0.0), settings.max_num_batched_tokens)
    return replace(named(settings), timing=timing, **changes)  # type: ignore[arg-type]


def board(waiting: Sequence[RequestView], **facts: object) -> FakeBoard:
    roomy = {"available_blocks": 99, "num_blocks": 99, "tick": 1} | facts
    return FakeBoard(waiting=list(waiting), **roomy)  # type: ignore[arg-type]


def entering(board: FakeBoard, now_ms: int = 0) -> list[str]:
    made = decide(rules(config(policy="brim")), board, now_ms * MS)
    return [view.request.request_id for view in made.admit]


def due_in(ttft_ms: int, name: str, **facts: object) -> list[RequestState]:
    return views(name, prompt=30, slo=SLO(ttft_ns=ttft_ms * MS), **facts)


def test_who_cannot_be_in_time_goes_behind_who_can():
    (late,), (timely,) = due_in(39, "a"), due_in(40, "b")
    assert entering(board([late, timely])) == ["b"]  # with both in the step b would be late
    assert entering(board([late, timely], hits={late: 20})) == ["a", "b"]  # a cached prefix makes a timely


def test_where_not_all_fit_nobody_overtakes():
    """Who overtakes then would keep the late one out for all of an answer, and not for a step."""
    (late,), (timely,) = due_in(39, "a"), due_in(40, "b")
    assert entering(
        board([late, timely], need={late: 8, timely: 8}, available_blocks=15, running=views("x"))
    )[:1] == ["a"]
    assert entering(board([late, timely], running=views("x"), max_num_seqs=2)) == ["a"]


def test_offline_requests_make_room_for_who_overtakes():
    """A server full of offline work has no free seat and hardly a free block at any time."""
    (late,), (timely,) = due_in(39, "a"), due_in(40, "b")
    offline = views("xyz", task_class=OFFLINE)
    full = {"running": offline, "max_num_seqs": 3, "available_blocks": 1, "offline_blocks": 90}
    assert entering(board([late, timely], **full))[0] == "b"
    assert entering(board([late, timely], **full | {"offline_blocks": 9}))[0] == "a"
    assert entering(board([late, timely], **full | {"running": [*offline[:1], *views("uv")]}))[0] == "a"


def test_priorities_stay():
    (late,), (timely,) = due_in(39, "a", priority=-1), due_in(200, "b")
    assert entering(board([late, timely])) == ["a", "b"]


def test_in_a_step_of_theirs_who_waited_longest_goes_first():
    (late,), (timely,) = due_in(39, "a"), due_in(40, "b")
    assert entering(board([timely, late], tick=15)) == ["b"]
    assert entering(board([timely, late], tick=16)) == ["a", "b"]


def test_behind_one_for_whom_there_is_no_room_nobody_enters():
    (large,), (small,) = due_in(100, "a"), due_in(100, "b")
    assert entering(board([large, small], need={large: 100, small: 1}, running=views("x"))) == []


def test_a_decision_leaves_nothing_to_the_cycle_collector():
    """It would stop an engine for as long as it walks through all there is."""
    large, small = due_in(100, "a"), due_in(100, "bcd")
    made, policy = (
        board([*large, *small], need={large[0]: 100}, running=views("x")),
        rules(config(policy="brim")),
    )
    gc.collect()
    gc.disable()
    try:
        decide(policy, made, 0)
        assert not [each for each in gc.get_objects() if type(each) is Draft and each.board is made]
    finally:
        gc.enable()


def first_token_of_the_long_one_ms(turn_steps: int) -> float:
    """Short prompts come faster than they can be computed, for three seconds."""
    came: dict[str, int] = {}

    def observe(events: list[Event]) -> None:
        came.update({e.request_id: e.now_ns for e in events if isinstance(e, FirstToken)})

    long = TraceRequest(30 * MS, 200, 1)
    short = [TraceRequest(i * 20 * MS, 30, 1) for i in range(150)]
    large = {"num_blocks": 999, "max_model_len": 999, "max_num_batched_tokens": 999, "max_num_seqs": 999}
    settings = config(policy="brim", **large)
    policy = rules(settings, hurrying=FirstTokens(turn_steps=turn_steps))
    setup = Setup(settings, Machine(STEP_TIME, 64), policy, Targets(ttft_ns=60 * MS, tpot_ns=50 * MS))
    simulate(Trace("overload", sorted([long, *short])), setup, observe=observe)
    assert len(came) == 151
    return came["2"] / MS


def test_in_an_overload_the_late_are_served_as_well():
    assert first_token_of_the_long_one_ms(turn_steps=16) < 1500
    assert first_token_of_the_long_one_ms(turn_steps=10**9) > 3000


class Asked:
    """The rule, and how often somebody wanted to know who is late."""

    def __init__(self) -> None:
        self.rule, self.times = FirstTokens(), 0

    def is_late(self, timing: Timing, step: OnlineStep, prompt: PromptWork) -> bool:
        self.times += 1
        return self.rule.is_late(timing, step, prompt)

    def is_turn(self, tick: int) -> bool:
        return self.rule.is_turn(tick)

    def prompt_tokens(self, timing: Timing, step: OnlineStep, most: int) -> int:
        return self.rule.prompt_tokens(timing, step, most)


def asked(board: FakeBoard) -> int:
    rule = Asked()
    decide(rules(config(policy="brim"), hurrying=rule), board, 0)
    return rule.times


def test_who_is_late_is_asked_no_further_than_there_is_room():
    five = [one for name in "abcde" for one in due_in(500, name)]
    large: dict[RequestView, int] = dict.fromkeys(five, 100)
    assert asked(board(five, running=views("x"))) > 1
    assert asked(board(five, running=views("x"), need=large)) == 1  # behind the first nobody enters
    assert asked(board(five, running=views("x") * 64, max_num_seqs=99)) == 0  # 64 tokens: the step is full
    assert asked(board(five[:1], running=views("x"))) == 0  # alone it overtakes nobody
