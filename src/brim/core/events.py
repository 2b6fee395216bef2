"""What happened: every event a scheduler tells of, each with the time it was told.

`step_id` is the step whose `schedule` or `commit` (or the next one, for what came between steps) the
event belongs to. `line(event)` is the stable one-line form that golden logs hold.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from brim.core.plan import TokenLogprobs
from brim.core.request import FinishReason, Request, RequestState


@dataclass(frozen=True, slots=True)
class Event:
    now_ns: int
    step_id: int


@dataclass(frozen=True, slots=True)
class Arrived(Event):
    request: Request


@dataclass(frozen=True, slots=True)
class Admitted(Event):
    """`cached_tokens` of its known tokens were in the cache; `resumed` after a preemption."""

    request_id: str
    cached_tokens: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Preempted(Event):
    """Its KV is given up: `lost_tokens` are to be computed again, but for those still cached then."""

    request_id: str
    lost_tokens: int


@dataclass(frozen=True, slots=True)
class FirstToken(Event):
    """The `Tokens` event of the same step holds the first token of this request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Tokens(Event):
    """One token for each of `states`, all from one step. `logprobs` by request id, where asked for."""

    states: Sequence[RequestState]
    token_ids: Sequence[int]
    logprobs: Mapping[str, TokenLogprobs]


@dataclass(frozen=True, slots=True)
class QuietSteps(Event):
    """Steps that were taken in at once: each drew `token_id` for each of `states`, ending at `ends_ns`.

    Stands for one `Tokens` event a step; `step_id` is the first one's, `now_ns` the end of the last.
    """

    states: Sequence[RequestState]
    token_id: int
    ends_ns: Sequence[int]

    def steps(self) -> Iterator[Tokens]:
        """The events it stands for."""
        drawn = [self.token_id] * len(self.states)
        for i, end_ns in enumerate(self.ends_ns):
            yield Tokens(end_ns, self.step_id + i, self.states, drawn, {})


@dataclass(frozen=True, slots=True)
class MissPredicted(Event):
    """Its next token will be late by so much, whatever the offline requests do; told once a request."""

    request_id: str
    late_ns: int


@dataclass(frozen=True, slots=True)
class Finished(Event):
    request_id: str
    reason: FinishReason
    num_output_tokens: int
    message: str | None = None  # why, for an error


def line(event: Event) -> str:
    """The event as one line of JSON with sorted keys: two equal runs give equal lines."""
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return json.dumps({"event": kind, **_fields(event)}, sort_keys=True)


def _fields(event: Event) -> dict[str, object]:
    base: dict[str, object] = {"now_ns": event.now_ns, "step_id": event.step_id}
    if isinstance(event, Arrived):
        request = event.request
        return base | {
            "request_id": request.request_id,
            "task_class": request.task_class,
            "num_prompt_tokens": len(request.prompt_token_ids),
        }
    if isinstance(event, Tokens):
        drawn = zip(event.states, event.token_ids, strict=True)
        return base | {"drawn": [[state.request.request_id, token_id] for state, token_id in drawn]}
    return dataclasses.asdict(event)
