"""Nobody waits for ever in the pool: whatever keeps coming with hits, the oldest has its turn.

A1 who has neither deadline nor hits enters, though hits, deadlines and higher priorities always wait
A2 before that it goes by the score
A3 whose deadline presses enters, whatever its priority and prefix
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings

from brim.core.estimators.step_time import StepTime
from brim.core.events import Admitted
from brim.core.offline.planning import Planning
from brim.core.request import Request
from tests.helpers import MS, OFFLINE, config, request
from tests.timed import TimedHost, informed

STEP_TIME = StepTime(5 * 10**9, 10**9, (), 0, 0, 0)  # 5 ms and 1 ms a token
SHARED = range(1000, 1016)
SECOND = 1000 * MS


def host(patience_ns: int, num_seqs: int, num_blocks: int) -> TimedHost:
    limits = config(
        policy="bs-e-s",
        num_blocks=num_blocks,
        max_num_seqs=num_seqs,
        max_model_len=48,
        max_num_batched_tokens=32,
    )
    policy = informed(limits, STEP_TIME)
    assert policy.timing is not None
    planning = Planning(policy.timing.steps, limits.block_size, patience_ns=patience_ns)
    return TimedHost(limits, STEP_TIME, policy=replace(policy, planning=planning))


def entered(run: TimedHost, unlucky: list[int], until_ns: int) -> dict[str, int]:
    """When who entered first, ns, while two more with hits always wait than there is room for."""
    hits = (hit(run, count) for count in itertools.count())
    run.add(next(hits))
    run.step()  # now its prefix is there
    for at, prompt in enumerate(unlucky):
        own = range(at * 100, at * 100 + prompt)
        run.add(request(f"cold{at}", own, 4, task_class=OFFLINE, arrival_ns=run.now_ns, priority=1))
    while run.now_ns < until_ns:
        while len(run.scheduler) < run.config.max_num_seqs + len(unlucky) + 2:
            run.add(next(hits))
        run.step()
    times: dict[str, int] = {}
    for event in run.events:
        if isinstance(event, Admitted):
            times.setdefault(event.request_id, event.now_ns)
    return times


def hit(run: TimedHost, count: int) -> Request:
    prompt = [*SHARED, 10_000 + count, 20_000 + count]
    due_ns = run.now_ns + 100 * SECOND
    return request(
        f"hit{count}",
        prompt,
        1 + count % 5,
        task_class=OFFLINE,
        arrival_ns=run.now_ns,
        deadline_ns=due_ns,
    )


prompts = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@settings(max_examples=10, deadline=None)
@given(prompts, st.integers(1, 4), st.integers(12, 40))
def test_the_unlucky_have_their_turns(unlucky: list[int], num_seqs: int, num_blocks: int) -> None:
    """Within patience and 20 times what prompts up to its own take; half a second for those that run."""
    run = host(SECOND // 2, num_seqs, num_blocks)
    times = entered(run, unlucky, 4 * SECOND)
    for at in range(len(unlucky)):
        late_ns = SECOND + 20 * sum(unlucky[: at + 1]) * MS
        assert times[f"cold{at}"] <= late_ns


@settings(max_examples=5, deadline=None)
@given(st.integers(17, 40), st.integers(1, 4))
def test_before_their_turn_they_wait(prompt: int, num_seqs: int) -> None:
    run = host(1000 * SECOND, num_seqs, 40)
    assert "cold0" not in entered(run, [prompt], SECOND)


def test_a_deadline_that_presses_goes_first() -> None:
    """A3; behind hits of a better priority, and behind others of its own bucket."""
    run = host(patience_ns=1000 * SECOND, num_seqs=2, num_blocks=40)
    run.add(*(hit(run, count) for count in range(3)))
    run.step()
    late = {"priority": 1, "task_class": OFFLINE, "arrival_ns": run.now_ns}
    run.add(request("later", range(3), 4, deadline_ns=run.now_ns + 50 * SECOND, **late))
    run.add(request("cold", range(100, 103), 4, deadline_ns=run.now_ns + SECOND, **late))
    run.add(request("none", range(200, 203), 4, **late))
    until_ns = run.now_ns + 2 * SECOND
    for count in itertools.count(3):
        if run.now_ns > until_ns:
            break
        run.add(hit(run, count))
        run.step()
    times = {event.request_id: event.now_ns for event in run.events if isinstance(event, Admitted)}
    assert times["cold"] <= SECOND
    assert not {"later", "none"} & times.keys()
