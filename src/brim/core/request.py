"""Request: the facts, frozen. RequestState: the progress, changed only through its verbs."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

NO_TOKENS: frozenset[int] = frozenset()


class TaskClass(enum.StrEnum):
    """Online requests have someone waiting; offline ones only a deadline."""

    ONLINE = "online"
    OFFLINE = "offline"


class FinishReason(enum.StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REFUSED = "refused"


class Status(enum.StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"  # waits again, all its KV given up
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class SLO:
    """Targets of one request, in nanoseconds; None means no target."""

    ttft_ns: int | None = None
    tpot_ns: int | None = None
    itl_ns: int | None = None
    e2e_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn and when to stop. Meanings and ranges as in OpenAI's and vLLM's API.

    `seed` makes a request's draws a function of (seed, position), so that a recomputed token is the
    same token. `logprobs` is the number of alternatives wanted beside the drawn token, None for none.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = NO_TOKENS  # the model's end tokens included, unless ignored
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. All times are integer nanoseconds of one clock; latencies start at `arrival_ns`."""

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams = GREEDY
    task_class: TaskClass = TaskClass.ONLINE
    arrival_ns: int = 0
    priority: int = 0  # smaller goes first, inside a class
    deadline_ns: int | None = None
    slo: SLO = field(default_factory=SLO)
    cache_salt: str = ""  # requests share prefixes only with requests of the same salt
    length_keys: tuple[str, ...] = ()  # groups whose answers are alike in length, most specific first

    @property
    def is_offline(self) -> bool:
        return self.task_class is TaskClass.OFFLINE

    @property
    def urgency(self) -> tuple[float, ...]:
        """Of the offline requests: smaller goes first, by priority, deadline, arrival."""
        deadline_ns = math.inf if self.deadline_ns is None else self.deadline_ns
        return self.priority, deadline_ns, self.arrival_ns

    @property
    def presses_from_ns(self) -> int | None:
        """When its deadline is so near that it goes before whatever gains more: a twentieth of its time."""
        if self.deadline_ns is None:
            return None
        return self.deadline_ns - (self.deadline_ns - self.arrival_ns) // 20


class StepClock(Protocol):
    """Counts the steps scheduled so far."""

    @property
    def tick(self) -> int: ...


class RequestView(Protocol):
    """What a rule or an engine may read of a request in progress."""

    @property
    def request(self) -> Request: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def block_ids(self) -> Sequence[int]: ...
    @property
    def status(self) -> Status: ...
    @property
    def arrival_seq(self) -> int: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_computed_tokens(self) -> int: ...
    @property
    def num_scheduled_tokens(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_cached_tokens(self) -> int | None:
        """Prompt tokens found in the cache when it first entered."""

    @property
    def expected_tokens(self) -> int:
        """Prompt and output tokens that it is expected to have when it ends."""

    @property
    def ending(self) -> bool: ...


class RequestState:
    """One request's progress.

    The known tokens are the prompt and every output token committed so far. Computed tokens catch up
    with known tokens: there is no prefill or decode phase, only a request that is more than one token
    behind, and one that is exactly one behind.

    A request that runs one token in every step is not touched when a step is scheduled: its
    `num_scheduled_tokens` is a line over the step clock, `offset + tick`. With 5 prompt tokens, computed
    whole by the step of tick 0, the offset is 4:

                            known   computed   scheduled
        tick 0 scheduled      5         0      5
        tick 0 committed      6         5      5 = 4 + 1, from here on a line
        tick 1 scheduled      6         5      6 = 4 + 2
        tick 1 committed      7         6      6
    """

    __slots__ = (
        "_caught_up",
        "_line_offset",
        "_num_computed",
        "_num_scheduled",
        "_step_clock",
        "arrival_seq",
        "block_ids",
        "expected_tokens",
        "known",
        "max_num_tokens",
        "num_cached_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "request",
        "status",
        "stop_token_ids",
        "token_ids",
    )

    def __init__(self, request: Request, arrival_seq: int) -> None:
        self.request = request
        self.arrival_seq = arrival_seq
        self.status = Status.WAITING
        # The request's own until it runs: very many may wait, with very long prompts.
        self.token_ids: Sequence[int] = request.prompt_token_ids
        self.known: list[int] = []  # the same list, to be written, once it has been admitted
        self.num_prompt_tokens = len(self.token_ids)
        self.max_num_tokens = self.num_prompt_tokens + request.sampling.max_tokens
        self.stop_token_ids = request.sampling.stop_token_ids
        self.block_ids: list[int] = []  # the KV cache manager's: nobody else writes it
        self.num_cached_tokens: int | None = None  # prompt tokens found in the cache at first admission
        self.num_preemptions = 0
        self.expected_tokens = self.max_num_tokens
        self._num_computed = 0
        self._caught_up = False  # has computed every known token since it was admitted
        self._num_scheduled = 0
        self._step_clock: StepClock | None = None
        self._line_offset = 0

    @property
    def num_tokens(self) -> int:
        """Known tokens: prompt and output."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_computed_tokens(self) -> int:
        """Tokens whose KV is written by committed steps: the progress number.

        Once caught up, a request computes its newest token in the step that draws the next: all but
        one are computed, and no step has to count.
        """
        return max(self._num_computed, len(self.token_ids) - 1) if self._caught_up else self._num_computed

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed or in flight; at least `num_computed_tokens`."""
        if self._step_clock is None:
            return self._num_scheduled
        return self._line_offset + self._step_clock.tick

    @property
    def ending(self) -> bool:
        """Whether its last token is drawn by a step that is scheduled already: no further one is needed."""
        return self.num_scheduled_tokens >= self.max_num_tokens - 1

    def expect(self, num_output_tokens: int) -> None:
        """A new estimate of all output tokens; no fewer than it has and one more, if it may."""
        wanted = max(num_output_tokens, self.num_output_tokens + 1)
        self.expected_tokens = min(self.num_prompt_tokens + wanted, self.max_num_tokens)

    def share(self, token_ids: list[int]) -> None:
        """These are the known tokens from now on, whoever appends to them."""
        self.token_ids = self.known = token_ids

    def admit(self, num_computed_tokens: int, *, cached: bool = True) -> None:
        """Waiting becomes running, its first tokens computed already: found in the cache, or by itself."""
        if self.num_cached_tokens is None:
            self.num_cached_tokens = num_computed_tokens if cached else 0
        if not self.known:
            self.share(list(self.request.prompt_token_ids))
        self.status = Status.RUNNING
        self._num_computed = self._num_scheduled = num_computed_tokens

    def schedule(self, num_tokens: int) -> None:
        self._num_scheduled += num_tokens

    def start_decoding(self, clock: StepClock) -> None:
        """From the clock's present tick on, every step runs one token of this request."""
        self._line_offset = self._num_scheduled - clock.tick
        self._step_clock = clock

    def stop_decoding(self) -> None:
        self._num_scheduled = self.num_scheduled_tokens
        self._step_clock = None

    def compute(self, stop: int, *, caught_up: bool) -> None:
        """A committed chunk has written the KV of the tokens before `stop`.

        `caught_up`: these were all that were known when it was planned; by now a host may have added one.
        """
        self._num_computed = stop
        self._caught_up = caught_up

    def append(self, token_id: int) -> bool:
        """One more output token; true when it is the last: a stop token, or the limit reached."""
        return bool(RequestState.append_each((self,), (token_id,)))

    @staticmethod
    def append_each(states: Sequence[RequestState], token_ids: Sequence[int]) -> list[RequestState]:
        """`append` for many in one lean loop; returns those whose last token it was."""
        over = []
        for state, token_id in zip(states, token_ids, strict=True):
            tokens = state.known
            tokens.append(token_id)
            if len(tokens) >= state.max_num_tokens or (token_id in state.stop_token_ids and state.stopped):
                over.append(state)
        return over

    @property
    def stopped(self) -> bool:
        """Whether the newest token ends the output; before `min_tokens` none does."""
        long_enough = self.num_output_tokens > self.request.sampling.min_tokens
        return long_enough and self.token_ids[-1] in self.stop_token_ids

    def preempt(self) -> int:
        """Running becomes preempted; returns the number of tokens whose KV is lost."""
        lost = self.num_computed_tokens
        self.status = Status.PREEMPTED
        self._num_computed = self._num_scheduled = 0
        self._caught_up = False
        self.num_preemptions += 1
        return lost

    def finish(self) -> None:
        self.status = Status.FINISHED

    def __repr__(self) -> str:
        return (
            f"<{self.request.request_id} {self.status} "
            f"{self.num_computed_tokens}/{self.num_scheduled_tokens}/{self.num_tokens}>"
        )
