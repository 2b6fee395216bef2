"""How long a step may take for the sake of the online requests: offline ones get what is left of that."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from brim.core.estimators.chunk_size import largest_chunk
from brim.core.estimators.online_watch import OnlineWatch
from brim.core.estimators.refitted import RefittedStepTime
from brim.core.estimators.slack import OnlineStep, Slack, StepLimit
from brim.core.estimators.step_time import StepShape


class Timing(Protocol):
    @property
    def steps(self) -> RefittedStepTime:
        """Told of every step that was run."""

    @property
    def watch(self) -> OnlineWatch:
        """Told what happens to online requests."""

    def limit(self, step: OnlineStep) -> StepLimit:
        """How long the step may take: never less than its online part, which always runs."""

    def prompt_tokens(self, step: OnlineStep, most: int) -> int:
        """How many of `most` tokens online prompts may run, so that decoding online requests are in time.

        At least 1.
        """


class BySlack:
    """As long as no online request, present or coming, gets a token too late (see `estimators/slack.py`).

    Slack and due times are built from the published summaries of Echo (arXiv 2504.03651). `share` is how
    much of the slack may be spent, from 0 to 1. `ttft_ns` is a target of requests of which none came yet.
    """

    def __init__(
        self, steps: RefittedStepTime, token_budget: int, share: float = 1.0, ttft_ns: int | None = None
    ) -> None:
        self.steps = steps
        self.watch = OnlineWatch(ttft_ns, lambda: steps.nanoseconds(StepShape(1)))
        dues, arrivals = self.watch.dues, self.watch.arrivals
        self._slack = Slack(steps.guarded_ns, dues, arrivals, token_budget, share, steps.nanoseconds)

    def limit(self, step: OnlineStep) -> StepLimit:
        return self._slack.limit(step)

    def prompt_tokens(self, step: OnlineStep, most: int) -> int:
        """What fits until a decoding request's next token is due, or into 0.9 of the shortest pace if longer.

        By the expected time, without the guard: with it, prompts would wait though there is time. But a
        gap (ITL) that is too long can't be made good for later, so it must hold in 19 of 20 steps. Where the
        pace is hardly kept as it is, prompts trickle; one that can't be kept holds them up no more.
        """
        dues, expect, decodes = self.watch.dues, self.steps.nanoseconds, step.decodes
        alone_ns = expect(decodes) if step.num_decodes else 0
        pace_ns, due = dues.least_pace_ns(alone_ns), dues.least(step.tick, step.last_ns)
        if pace_ns is None or due is None:
            return most
        start, limit_ns = _start(step), max(due.due_ns - step.start_ns, pace_ns * 9 // 10)
        fit = partial(largest_chunk, expect, decodes, start, most)
        tokens = fit(limit_ns) or fit(pace_ns) or 1
        gap_ns = dues.least_gap_ns(alone_ns)
        if gap_ns is None:
            return tokens
        left_ns = step.last_ns + gap_ns - step.start_ns
        return largest_chunk(self.steps.unusual_ns, decodes, start, tokens, left_ns) or tokens


class FixedLatency:
    """The same in every step (HyGen, arXiv 2501.14808): what a profile said that the targets bear."""

    def __init__(self, steps: RefittedStepTime, limit_ns: int) -> None:
        self.steps = steps
        self.watch = OnlineWatch()
        self._limit_ns = limit_ns

    def limit(self, step: OnlineStep) -> StepLimit:
        shape = step.shape
        online_ns = self.steps.guarded_ns(shape) if shape.new_tokens else 0
        return StepLimit(max(self._limit_ns, online_ns), online_ns)

    def prompt_tokens(self, step: OnlineStep, most: int) -> int:
        """What fits; all where not even one token does: those who decode are late anyhow."""
        return largest_chunk(self.steps.nanoseconds, step.decodes, _start(step), most, self._limit_ns) or most


def _start(step: OnlineStep) -> int:
    """Where in its prompt the first one goes on: a token attends to all before it."""
    return next((prompt.start for prompt in step.prompts), 0)
