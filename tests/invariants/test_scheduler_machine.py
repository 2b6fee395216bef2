"""The whole scheduler under random traffic, at both depths, under every named policy, in tiny caches.

S1 a step keeps to its limits                 S2 every request ends; offline never costs online its place
S5 the same calls give the same bytes         S6 the output is the script's, whatever has happened
I5 nothing stays used                         quiet steps decide what a full decision would
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, precondition, rule

from brim.core.events import Finished, MissPredicted, Preempted
from brim.core.policies.named import NAMED
from brim.core.request import FinishReason, Request
from tests.helpers import OFFLINE, ONLINE, Host, config, lines, reference
from tests.invariants.traffic import Traffic

NORMAL = (FinishReason.LENGTH, FinishReason.STOP)


class SchedulerMachine(Traffic):
    @initialize(
        depth=st.integers(1, 2),
        policy=st.sampled_from(sorted(NAMED)),
        block_size=st.sampled_from([1, 2, 4]),
        seats=st.integers(1, 4),
        tokens=st.sampled_from([4, 7, 64]),
        chunk=st.sampled_from([0, 0, 3]),
        prefix_caching=st.booleans(),
    )
    def start(
        self,
        depth: int,
        policy: str,
        block_size: int,
        seats: int,
        tokens: int,
        chunk: int,
        prefix_caching: bool,
    ) -> None:
        self.depth = depth
        self.config = config(
            policy=policy,
            block_size=block_size,
            max_num_seqs=seats,
            max_num_batched_tokens=tokens,
            max_prefill_chunk_tokens=chunk,
            enable_prefix_caching=prefix_caching,
        )
        self.host, self.twin = Host(self.config, depth=depth), Host(self.config, depth=depth)
        self.requests: dict[str, Request] = {}
        self.calls: list[Callable[[Host], Any]] = []

    def do(self, call: Callable[[Host], Any]) -> None:
        """Does the same to host and twin; the twin never takes the quiet way.

        Where blocks are lent it may: a guest can come to fit by time alone, and is looked at with the next
        event only. And a miss that comes to be foreseen by time alone is told with the next event.
        """
        self.calls.append(call)
        if self.twin.scheduler.policy.lending is None:
            self.twin.scheduler._settled.disturb()
        seen, seen_by_twin = len(self.host.events), len(self.twin.events)
        call(self.host)
        call(self.twin)
        assert self.done_by(self.host, seen) == self.done_by(self.twin, seen_by_twin)
        assert self.host.rows[-1:] == self.twin.rows[-1:]
        self.offline_goes_first(seen)

    @staticmethod
    def done_by(host: Host, seen: int) -> list[str]:
        return lines([event for event in host.events[seen:] if not isinstance(event, MissPredicted)])

    def offline_goes_first(self, seen: int) -> None:
        """Where an online request was just preempted, no offline one may be left running."""
        preempted = [e.request_id for e in self.host.events[seen:] if isinstance(e, Preempted)]
        classes = {self.requests[name].task_class for name in preempted}
        if self.config.policy == "priority" and ONLINE in classes:
            assert all(s.request.task_class is ONLINE for s in self.host.scheduler.batch)

    # ---- what may happen

    @rule(
        stem=st.integers(0, 2),
        common=st.integers(0, 9),
        own=st.integers(1, 6),
        max_tokens=st.integers(1, 12),
        task_class=st.sampled_from([ONLINE, OFFLINE]),
        priority=st.integers(-1, 1),
        due=st.none() | st.integers(0, 50),
        stop_token_ids=st.frozensets(st.integers(97, 122), max_size=4),
        min_tokens=st.integers(0, 3),
    )
    def arrive(
        self, stem: int, common: int, own: int, max_tokens: int, due: int | None, **facts: Any
    ) -> None:
        self.enter([*range(stem * 50, stem * 50 + common), *[999 - stem] * own], max_tokens, due, **facts)

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.do(lambda host: host.step())

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99))
    def fail(self, at: int) -> None:
        errors = {f"r{at % len(self.requests)}": "no luck"}
        self.do(lambda host: host.step(errors))

    # ---- what must hold in the end

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        left = [s.num_prompt_tokens + s.request.sampling.max_tokens for s in self.host.scheduler.states()]
        for _ in range(20 + 4 * sum(left)):
            if self.host.idle:
                break
            self.do(lambda host: host.step())
        assert self.host.idle, f"still there: {list(self.host.scheduler.states())}"
        self.do(lambda host: host.step())
        assert self.host.scheduler.kv.used_blocks == 0
        self.every_request_has_said_what_the_script_says()
        self.the_same_calls_give_the_same_bytes()

    def every_request_has_said_what_the_script_says(self) -> None:
        finished = [event.request_id for event in self.host.of(Finished)]
        assert sorted(finished) == sorted(self.requests)
        for name, reason in self.host.finish_reasons().items():
            said, expected = self.host.outputs[name], reference(self.requests[name])
            assert said == (expected if reason in NORMAL else expected[: len(said)])

    def the_same_calls_give_the_same_bytes(self) -> None:
        again = Host(self.config, depth=self.depth)
        for call in self.calls:
            call(again)
        assert "\n".join(lines(again.events)) == "\n".join(lines(self.host.events))


class TestFewRuns(SchedulerMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.slow
class TestManyRuns(SchedulerMachine.TestCase):
    settings = settings(max_examples=800, stateful_step_count=50, deadline=None)
