"""Small builders, and a host that drives a scheduler over the scripted engine in virtual time."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from brim.core.config import SchedulerConfig
from brim.core.estimators.response_length import bounded
from brim.core.events import Admitted, Event, Finished, Preempted, Tokens, line
from brim.core.plan import StepPlan, StepResult
from brim.core.policy import Policy
from brim.core.request import SLO, FinishReason, Request, RequestState, SamplingParams, TaskClass
from brim.core.scheduler import Scheduler
from brim.engines.base import Engine
from brim.engines.scripted import ScriptedEngine

ONLINE, OFFLINE = TaskClass.ONLINE, TaskClass.OFFLINE
NO_SLO = SLO()
MS = 1_000_000  # nanoseconds; a step of a `Host` takes one


def request(
    request_id: str,
    prompt: int | Sequence[int] = 4,
    max_tokens: int = 2,
    *,
    task_class: TaskClass = ONLINE,
    arrival_ns: int = 0,
    priority: int = 0,
    deadline_ns: int | None = None,
    slo: SLO = NO_SLO,
    cache_salt: str = "",
    **sampling: Any,
) -> Request:
    """`prompt` is the tokens, or how many: then no other request id of one letter has the same."""
    first = 100 * ord(request_id[-1])
    tokens = tuple(range(first, first + prompt)) if isinstance(prompt, int) else tuple(prompt)
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, **sampling})
    return Request(request_id, tokens, params, task_class, arrival_ns, priority, deadline_ns, slo, cache_salt)


def config(**changes: Any) -> SchedulerConfig:
    """7 blocks of 4 tokens, and room for everything else."""
    small = {"num_blocks": 7, "block_size": 4, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    merged = small | {"policy": "vllm"} | changes
    merged.setdefault("max_model_len", merged["num_blocks"] * merged["block_size"])
    return SchedulerConfig(**merged)


def script(token_ids: Sequence[int]) -> int:
    """The next token as a hash of all tokens before it: one wrong token anywhere shows."""
    return 97 + zlib.crc32(repr(list(token_ids)).encode()) % 26


def reference(asked: Request) -> list[int]:
    """The output that `script` gives the request when nothing disturbs it."""
    tokens, sampling = list(asked.prompt_token_ids), asked.sampling
    for count in range(1, sampling.max_tokens + 1):
        tokens.append(script(tokens))
        if count > sampling.min_tokens and tokens[-1] in sampling.stop_token_ids:
            break
    return tokens[len(asked.prompt_token_ids) :]


class Foretold:
    """Predicts for each request the length that it was told, and nothing better for those beyond it."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.lengths = lengths

    def predict(self, asked: Request, generated: int) -> int:
        return bounded(self.lengths[asked.request_id], asked, generated)

    def observe(self, asked: Request, num_output_tokens: int) -> None:
        """Learns nothing."""


def state(asked: Request, arrival_seq: int = 0) -> RequestState:
    return RequestState(asked, arrival_seq)


def lines(events: Iterable[Event]) -> list[str]:
    return [line(event) for event in events]


def compute(state: RequestState, num_tokens: int) -> None:
    """A chunk of so many tokens is over, before the next token is known."""
    stop = state.num_computed_tokens + num_tokens
    state.compute(stop, caught_up=stop == state.num_tokens)


class Host:
    """Schedules, runs and commits; at depth 2 the next step is scheduled before a step is committed.

    Every step is held to the limits of the configuration, and the books are checked after it.
    """

    def __init__(
        self,
        settings: SchedulerConfig | None = None,
        *,
        depth: int = 1,
        policy: Policy | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.config = settings or config()
        self.scheduler = Scheduler(self.config, policy)
        self.engine = engine or ScriptedEngine(
            self.config.num_blocks,
            self.config.block_size,
            max_model_len=self.config.max_model_len,
            depth=depth,
            script=script,
        )
        self.depth = depth
        self.now_ns = 0
        self.plans: list[StepPlan] = []  # the falsy ones too
        self.rows: list[list[tuple[str, int, int]]] = []  # of each plan: (request, start, tokens)
        self.events: list[Event] = []
        self.outputs: dict[str, list[int]] = {}
        self._under_way: StepPlan | None = None

    @property
    def idle(self) -> bool:
        return not len(self.scheduler) and self._under_way is None

    def add(self, *requests: Request) -> None:
        for asked in requests:
            self.scheduler.add(asked, self.now_ns)
            self.outputs[asked.request_id] = []

    def step(self, errors: Mapping[str, str] | None = None) -> StepPlan:
        """One turn of the loop; `errors` befall the step that is committed. Returns the one scheduled."""
        self.now_ns += MS
        plan = self._schedule()
        done, result = self._under_way, self.engine.finish() if self._under_way else None
        self._under_way = plan or None
        if plan:
            self.engine.begin(plan)
        if self.depth == 1:
            done, result, self._under_way = plan or None, self.engine.finish() if plan else None, None
        self._commit(done, result, errors or {})
        return plan

    def run(self, max_steps: int = 1000) -> Host:
        """Steps until nothing is left."""
        for _ in range(max_steps):
            if self.idle:
                self._commit(None, None, {})
                return self
            self.step()
        raise AssertionError(f"not over after {max_steps} steps: {list(self.scheduler.states())}")

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def finish_reasons(self) -> dict[str, FinishReason]:
        return {event.request_id: event.reason for event in self.of(Finished)}

    def cached_tokens(self) -> dict[str, int]:
        """Of each request, at its first admission."""
        return {e.request_id: e.cached_tokens for e in self.of(Admitted) if not e.resumed}

    def preempted(self) -> list[str]:
        return [event.request_id for event in self.of(Preempted)]

    def table(self, request_id: str) -> list[int]:
        return self.state(request_id).block_ids

    def state(self, request_id: str) -> RequestState:
        return next(s for s in self.scheduler.states() if s.request.request_id == request_id)

    def _schedule(self) -> StepPlan:
        plan = self.scheduler.schedule(self.now_ns)
        rows = [(row.state.request.request_id, row.start, row.num_tokens) for row in plan.rows()]
        assert plan.num_tokens <= self.config.max_num_batched_tokens
        assert len(rows) == len({request_id for request_id, _, _ in rows}) <= self.config.max_num_seqs
        self.plans.append(plan)
        self.rows.append(rows)
        return plan

    def _commit(self, done: StepPlan | None, result: StepResult | None, errors: Mapping[str, str]) -> None:
        if done is None or result is None:
            events = self.scheduler.take_events()
        else:
            run = {row.state.request.request_id for row in done.rows()}
            mine = {request_id: text for request_id, text in errors.items() if request_id in run}
            result = dataclasses.replace(result, errors=mine)
            events = self.scheduler.commit(done, result, self.now_ns)
        for event in events:
            if isinstance(event, Tokens):
                for drew, token_id in zip(event.states, event.token_ids, strict=True):
                    self.outputs[drew.request.request_id].append(token_id)
        self.events += events
        self.scheduler.check()
