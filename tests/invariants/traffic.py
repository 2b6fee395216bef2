"""What may happen to a scheduler whoever it serves: the rules that state machines of requests share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from brim.core.config import SchedulerConfig
from brim.core.request import Request
from tests.helpers import MS, OFFLINE, ONLINE, request


class Traffic(RuleBasedStateMachine):
    """Requests are called r0, r1 ... in the order in which they came."""

    config: SchedulerConfig
    host: Any
    requests: dict[str, Request]

    @abstractmethod
    def do(self, call: Callable[[Any], Any]) -> None:
        """Does it to the host, and remembers it."""

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99), own=st.integers(1, 3), task_class=st.sampled_from([ONLINE, OFFLINE]))
    def continue_a_conversation(self, at: int, own: int, **facts: Any) -> None:
        """From what another request, over or still running, has said so far."""
        earlier = self.requests[f"r{at % len(self.requests)}"]
        said = self.host.outputs[earlier.request_id]
        self.enter([*earlier.prompt_token_ids, *said, *[998] * own], 2, **facts)

    def enter(self, prompt: list[int], max_tokens: int, due: int | None = None, **facts: Any) -> None:
        prompt = prompt[: self.config.max_model_len - 1]
        max_tokens = min(max_tokens, self.config.max_model_len - len(prompt))
        now_ns = self.host.now_ns
        deadline_ns = None if due is None else now_ns + due * MS
        name = f"r{len(self.requests)}"
        asked = request(name, prompt, max_tokens, arrival_ns=now_ns, deadline_ns=deadline_ns, **facts)
        self.requests[name] = asked
        self.do(lambda host: host.add(asked))

    @precondition(lambda self: self.requests)
    @rule(at=st.integers(0, 99))
    def abort(self, at: int) -> None:
        name = f"r{at % len(self.requests)}"
        self.do(lambda host: host.scheduler.abort(name, host.now_ns))
