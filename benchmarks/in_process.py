"""Engines run step by step in this process, under a clock that is told: nothing is timed but what they do.

A server beside them runs at the same time on a machine of its own; here it would count as the engine's work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from benchmarks.clocks import Clock

from brim.core.errors import ConfigError
from brim.core.estimators.step_time import shape_of
from brim.core.events import Event
from brim.core.request import Request
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from brim.profiling.load_client import Ask
from brim.profiling.vllm_steps import Observer
from brim.workloads.journals import Step


class Arrival(NamedTuple):
    """`enter` hands somebody to the engine; `at` is in seconds of the clock."""

    at: float
    enter: Callable[[], None]


class Driven(Protocol):
    """`steps` have with them all that the host did for each."""

    steps: list[Step]

    @property
    def has_work(self) -> bool: ...

    def step(self) -> None: ...


def drive(engine: Driven, arrivals: Iterable[Arrival], clock: Clock, goes_on: Callable[[], bool]) -> None:
    """Step after step, everybody entering in time, as long as `goes_on` and there is somebody to run."""
    coming = deque(sorted(arrivals, key=lambda arrival: arrival.at))
    while goes_on():
        while coming and coming[0].at <= clock.seconds():
            coming.popleft().enter()
        if engine.has_work:
            engine.step()
        elif coming:
            clock.idle_until(coming[0].at)
        else:
            return


class LocalEngine:
    """Brim's own engine and a scheduler, as `EngineLoop` runs them. Raises ConfigError for one of depth 2."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        now_ns: Callable[[], int],
        observe: Callable[[list[Event]], None],
    ) -> None:
        if engine.caps.depth != 1:
            raise ConfigError(f"{engine.caps.device}: only a CPU's time is seen, and one step at a time")
        self.steps: list[Step] = []
        self.scheduler_ns = 0  # of all steps
        self._engine, self._scheduler = engine, scheduler
        self._now_ns, self._observe = now_ns, observe

    @property
    def has_work(self) -> bool:
        return len(self._scheduler) > 0

    def add(self, request: Request) -> None:
        self._scheduler.add(request, self._now_ns())

    def step(self) -> None:
        begin_ns = self._now_ns()
        plan = self._scheduler.schedule(begin_ns)
        if not plan:
            self._observe(self._scheduler.take_events())
            return
        context = sum(state.num_scheduled_tokens for state in plan.decodes)
        shape = shape_of(plan.chunks, len(plan.decodes), context)
        scheduled_ns = self._now_ns()
        self._engine.begin(plan)
        result = self._engine.finish()
        done_ns = self._now_ns()
        self._observe(self._scheduler.commit(plan, result, done_ns))
        took_ns = self._now_ns() - begin_ns
        self.scheduler_ns += took_ns - (done_ns - scheduled_ns)
        self.steps.append(Step(shape, took_ns))


class VllmEngine:
    """vLLM's engine in this process; `take` is told who drew how many tokens."""

    def __init__(self, engine: Any, now_ns: Callable[[], int], take: Callable[[str, int], None]) -> None:
        self.steps: list[Step] = []
        self._engine, self._now_ns, self._take = engine, now_ns, take
        self._observer = Observer(engine.engine_core.engine_core.scheduler, now_ns)
        self._drawn: dict[str, int] = {}  # of those under way, their tokens

    @property
    def has_work(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def add(self, name: str, ask: Ask, facts: Mapping[str, Any], arrival_seconds: float) -> None:
        """`facts` are what Brim is told of it; it arrived at that time of `time.time`."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=ask.max_tokens,
            ignore_eos=True,
            detokenize=False,  # another process does that
            extra_args=dict(facts) or None,
        )
        self._engine.add_request(name, {"prompt_token_ids": ask.prompt}, params, arrival_time=arrival_seconds)
        self._drawn[name] = 0

    def step(self) -> None:
        begin_ns = self._now_ns()
        outputs = self._engine.step()
        for output in outputs:
            name, drawn = output.request_id, len(output.outputs[0].token_ids)
            self._take(name, drawn - self._drawn[name])
            self._drawn[name] = drawn
            if output.finished:
                del self._drawn[name]
        took_ns = self._now_ns() - begin_ns
        self.steps += [Step(step.shape, took_ns) for step, _ in self._observer.ended]
        self._observer.forget()

    def close(self) -> None:
        """Gives up who is left."""
        self._engine.abort_request(list(self._drawn))
        while self._engine.has_unfinished_requests():
            self._engine.step()
        self._observer.close()
        self._engine.reset_prefix_cache()
