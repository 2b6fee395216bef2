"""A host whose steps take as long as a model says, and policies that know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brim.core.config import SchedulerConfig
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.step_time import StepShape, StepTime, attention_pairs
from brim.core.offline.planning import Planning
from brim.core.plan import StepPlan, StepResult
from brim.core.policies.named import named
from brim.core.policies.timing import BySlack
from brim.core.policy import Policy
from brim.core.scheduler import Scheduler
from tests.helpers import Host


class TimedHost(Host):
    """At depth 2 a step is scheduled when the one before the one in flight is over, as engines do it."""

    def __init__(
        self,
        settings: SchedulerConfig,
        step_time: StepTime,
        *,
        depth: int = 1,
        policy: Policy | None = None,
        scheduler: type[Scheduler] = Scheduler,
        **changes: Any,
    ) -> None:
        super().__init__(settings, depth=depth, policy=policy, **changes)
        self.scheduler = scheduler(settings, policy)
        self.shapes: list[StepShape] = []  # of each plan, the falsy ones too
        self.starts_ns: list[int] = []
        self._step_time = step_time
        self._took_ns: dict[int, tuple[int, int]] = {}  # by step: when it was scheduled, what it takes
        self._free_ns = 0

    def wait(self, time_ns: int) -> None:
        self.now_ns += time_ns

    def _schedule(self) -> StepPlan:
        plan = super()._schedule()
        self.shapes.append(shape_of_rows(self.rows[-1]))
        self.starts_ns.append(self.now_ns)
        if plan:
            self._took_ns[plan.step_id] = (self.now_ns, self._step_time.picoseconds(self.shapes[-1]) // 1000)
        return plan

    def _commit(self, done: StepPlan | None, result: StepResult | None, errors: Mapping[str, str]) -> None:
        if done is not None:
            scheduled_ns, took_ns = self._took_ns.pop(done.step_id)
            self._free_ns = max(self._free_ns, scheduled_ns) + took_ns
            self.now_ns = max(self.now_ns, self._free_ns)
        super()._commit(done, result, errors)


def informed(settings: SchedulerConfig, step_time: StepTime) -> Policy:
    """The named policy, which knows from the start how long steps take."""
    policy = named(settings)
    if policy.timing is None:
        return policy
    steps = RefittedStepTime(step_time)
    timing = BySlack(steps, settings.max_num_batched_tokens, settings.slack_share)
    planning = None if policy.planning is None else Planning(steps, settings.block_size)
    return replace(policy, timing=timing, planning=planning)


def shape_of_rows(rows: list[tuple[str, int, int]]) -> StepShape:
    """Of (request, start, tokens)."""
    decodes = [start + 1 for _, start, tokens in rows if tokens == 1]
    pairs = sum(attention_pairs(tokens, start) for _, start, tokens in rows if tokens > 1)
    return StepShape(sum(tokens for _, _, tokens in rows), pairs, len(decodes), sum(decodes))
