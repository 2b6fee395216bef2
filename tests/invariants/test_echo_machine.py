"""Online and offline requests under random traffic, with targets, at both depths, in tiny caches.

C1 every request ends, and says what the script says   C2 where somebody waits, something runs
C3 the books balance, the pool's as well               C4 reuse is what a recount of the waiting finds
C5 offline enters inside the headroom's limit          C6 offline never keeps an online request waiting
C7 the same calls give the same bytes                  C8 who waits in the pool costs no hashes
C9 a step that is not decided on is one whose decision would be empty
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, precondition, rule

from brim.core.decide import decide
from brim.core.estimators.online_demand import OnlineDemand
from brim.core.estimators.step_time import StepTime
from brim.core.events import Finished, Preempted
from brim.core.kvcache.headroom import Headroom
from brim.core.kvcache.prefix_index import BlockHash, TokenHashing
from brim.core.plan import StepPlan
from brim.core.policies.named import named
from brim.core.request import SLO, FinishReason, Request, RequestState
from brim.core.scheduler import Scheduler
from tests.helpers import MS, OFFLINE, ONLINE, config, lines, reference
from tests.invariants.traffic import Traffic
from tests.timed import TimedHost

POLICIES = ["bs", "bs-e", "bs-e-s", "hygen", "echo", "brim"]
NORMAL = (FinishReason.LENGTH, FinishReason.STOP)
TARGETS = [
    SLO(),
    SLO(ttft_ns=1, tpot_ns=1),  # nobody can meet them
    SLO(ttft_ns=40 * MS, tpot_ns=12 * MS),
    SLO(ttft_ns=200 * MS, itl_ns=30 * MS),
    SLO(e2e_ns=300 * MS),
]
MACHINE = StepTime(
    constant_ps=5 * 10**9,
    per_token_ps=10**9,
    knees=(),
    per_pair_ps=0,
    per_decode_ps=10**8,
    per_context_ps=10**7,
)


class WatchedScheduler(Scheduler):
    """Holds each admission to the headroom, and each step that was not decided on to what a decision says."""

    def _all_in_time(self, now_ns: int) -> bool:
        in_time = super()._all_in_time(now_ns)
        decision = decide(self.policy, self._board, now_ns)
        said = [getattr(decision, told.name) for told in fields(decision)]
        assert not (in_time and any(said))
        return in_time

    def _admit(self, state: RequestState, now_ns: int) -> bool:
        others, entered = len(self.batch), super()._admit(state, now_ns)
        headroom = self.policy.headroom
        if entered and others and headroom is not None and state.request.task_class is OFFLINE:
            online_blocks = max(self.kv.online_blocks, headroom.demand.forecast_blocks)
            assert self._board.offline_blocks <= max(self.kv.num_blocks - online_blocks, 0)
        return entered


class EchoMachine(Traffic):
    @initialize(
        depth=st.integers(1, 2),
        policy=st.sampled_from(POLICIES),
        num_blocks=st.integers(5, 24),
        block_size=st.sampled_from([1, 2, 4]),
        seats=st.integers(1, 6),
        tokens=st.sampled_from([6, 9, 64]),
        chunk=st.sampled_from([0, 0, 3]),
        prefix_caching=st.sampled_from([True, True, False]),
        offline_tokens=st.sampled_from([0, 2]),
        share=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def start(
        self,
        depth: int,
        policy: str,
        num_blocks: int,
        block_size: int,
        seats: int,
        tokens: int,
        chunk: int,
        prefix_caching: bool,
        offline_tokens: int,
        share: float,
    ) -> None:
        self.depth = depth
        self.config = config(
            policy=policy,
            num_blocks=num_blocks,
            block_size=block_size,
            max_num_seqs=seats,
            max_num_batched_tokens=tokens,
            max_prefill_chunk_tokens=chunk,
            enable_prefix_caching=prefix_caching,
            offline_step_tokens=offline_tokens,
            slack_share=share,
        )
        self.host = self.new_host()
        self.requests: dict[str, Request] = {}
        self.calls: list[Callable[[TimedHost], Any]] = []

    def new_host(self) -> TimedHost:
        """Under `echo` the demand is that of the last 80 ms, so that bursts come and go."""
        policy = named(self.config)
        if policy.headroom is not None:
            demand = OnlineDemand(window_seconds=0.08, num_sub_windows=4)
            policy = replace(policy, headroom=Headroom(self.config.num_blocks, demand))
        return TimedHost(self.config, MACHINE, depth=self.depth, policy=policy, scheduler=WatchedScheduler)

    def do(self, call: Callable[[TimedHost], Any]) -> None:
        self.calls.append(call)
        call(self.host)

    # ---- what may happen

    @rule(
        stem=st.integers(0, 2),
        common=st.integers(0, 20),
        own=st.integers(1, 9),
        max_tokens=st.integers(1, 12),
        task_class=st.sampled_from([ONLINE, OFFLINE, OFFLINE]),
        slo=st.sampled_from(TARGETS),
        due=st.none() | st.integers(0, 500),
        stop_token_ids=st.frozensets(st.integers(97, 122), max_size=4),
    )
    def arrive(
        self, stem: int, common: int, own: int, max_tokens: int, due: int | None, **facts: Any
    ) -> None:
        self.enter([*range(stem * 50, stem * 50 + common), *[999 - stem] * own], max_tokens, due, **facts)

    @rule(milliseconds=st.sampled_from([1, 40, 400]))
    def wait(self, milliseconds: int) -> None:
        """Nobody schedules for a while."""
        self.do(lambda host: host.wait(milliseconds * MS))

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.take_step({})

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99))
    def fail(self, at: int) -> None:
        self.take_step({f"r{at % len(self.requests)}": "no luck"})

    def take_step(self, errors: dict[str, str]) -> None:
        there, events, tick = len(self.host.scheduler), len(self.host.events), self.host.scheduler.batch.tick
        self.do(lambda host: host.step(errors))
        plan = self.host.plans[-1]
        assert plan or not there or self.depth == 2
        preempted = any(isinstance(event, Preempted) for event in self.host.events[events:])
        if self.depth == 1 and not preempted:
            self.nobody_online_waits_for_offline(plan, tick)
        self.reuse_is_what_a_recount_finds()

    # ---- what must hold

    def nobody_online_waits_for_offline(self, plan: StepPlan, tick: int) -> None:
        """Looked at after the step: it has given back at most what ended in it."""
        scheduler, kv = self.host.scheduler, self.host.scheduler.kv
        hurrying = scheduler.policy.hurrying
        if hurrying is not None and hurrying.is_turn(tick):
            return  # it began with another than the first who waits
        waiting = next(iter(scheduler.queues.waiting), None)
        prompts = any(chunk.state.request.task_class is ONLINE for chunk in plan.chunks)
        ended = any(isinstance(e, Finished) for e in self.host.events if e.step_id == plan.step_id)
        if waiting is None or waiting.request.task_class is OFFLINE or prompts or ended:
            return
        offline = [state for state in scheduler.batch if state.request.task_class is OFFLINE]
        online = [state for state in scheduler.batch if state.request.task_class is ONLINE]
        starved = [state for state in scheduler.batch.starved if state in online]
        room = kv.available_blocks + kv.freeable_blocks([state.block_ids for state in offline])
        need = kv.admission_blocks(waiting) + 1 + len(starved)
        assert need > room or len(online) >= self.config.max_num_seqs

    def reuse_is_what_a_recount_finds(self) -> None:
        pool, kv = self.host.scheduler.queues.pool, self.host.scheduler.kv
        if pool is None:
            return
        wanted: Counter[BlockHash] = Counter()
        for view in pool:
            hashes: list[BlockHash] = []
            if self.config.enable_prefix_caching:
                TokenHashing().extend(hashes, view, self.config.block_size)
            wanted.update(hashes[: (view.num_tokens - 1) // self.config.block_size])
        cached = kv._pool.index._block_ids
        assert {h: pool.prefixes.reuse(h) for h in cached} == {h: wanted[h] for h in cached}
        assert not {view.request.request_id for view in pool} & set(kv._contents)

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        left = [s.num_prompt_tokens + s.request.sampling.max_tokens for s in self.host.scheduler.states()]
        for _ in range(20 + 4 * sum(left)):
            if self.host.idle:
                break
            self.take_step({})
        assert self.host.idle, f"still there: {list(self.host.scheduler.states())}"
        self.do(lambda host: host.step())
        assert self.host.scheduler.kv.used_blocks == 0
        self.nobody_is_remembered()
        self.every_request_has_said_what_the_script_says()
        self.the_same_calls_give_the_same_bytes()

    def nobody_is_remembered(self) -> None:
        scheduler = self.host.scheduler
        assert not scheduler.kv._contents
        assert not scheduler._time._missing
        if (watch := scheduler._time.watch) is not None:
            assert (watch._decoding, watch._last_ns, len(watch.dues)) == (set(), {}, 0)

    def every_request_has_said_what_the_script_says(self) -> None:
        finished = [event.request_id for event in self.host.of(Finished)]
        assert sorted(finished) == sorted(self.requests)
        for name, reason in self.host.finish_reasons().items():
            said, expected = self.host.outputs[name], reference(self.requests[name])
            assert said == (expected if reason in NORMAL else expected[: len(said)])

    def the_same_calls_give_the_same_bytes(self) -> None:
        again = self.new_host()
        for call in self.calls:
            call(again)
        assert "\n".join(lines(again.events)) == "\n".join(lines(self.host.events))


class TestFewRuns(EchoMachine.TestCase):
    settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.slow
class TestManyRuns(EchoMachine.TestCase):
    settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
