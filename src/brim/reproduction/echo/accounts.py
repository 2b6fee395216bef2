"""What the machine does for offline requests in the measured time, told by events."""

from __future__ import annotations

from brim.core.estimators.step_time import StepShape, attention_pairs
from brim.core.events import Admitted, Event, Finished, Preempted
from brim.core.request import TaskClass
from brim.simulation.machine import Machine
from brim.simulation.results import Figures
from brim.workloads.trace import Trace


class Accounts:
    """Work is priced at what it adds to a step that fills the machine's compute: no step's constant in it.

    A prompt counts when its request is admitted, an answer when it is finished.
    """

    def __init__(self, trace: Trace, machine: Machine, from_ns: int, until_ns: int) -> None:
        self._requests = trace.requests
        self._machine = machine
        self._full = StepShape(machine.target_forward_tokens)
        self._span = (from_ns, until_ns)
        self._waiting = sum(r.task_class is TaskClass.OFFLINE for r in trace.requests)
        self._lost: dict[str, int] = {}  # tokens of the preempted
        self._prompt_tokens = self._cached_tokens = self._recomputed_tokens = self._preempted = 0
        self._prompt_ps = self._answer_ps = 0
        self._finished = [0, 0]  # in the first and in the second half of the time

    def observe(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Admitted | Finished | Preempted):
                continue
            asked = self._requests[int(event.request_id)]
            if asked.task_class is TaskClass.ONLINE:
                continue
            if isinstance(event, Admitted):
                self._admitted(event, asked.input_tokens)
            elif isinstance(event, Preempted):
                self._lost[event.request_id] = event.lost_tokens
                self._preempted += self._counts(event)
            elif self._counts(event):
                self._ended(event, asked.input_tokens)

    def figures(self) -> Figures:
        first, second = self._finished
        work_ps = self._prompt_ps + self._answer_ps
        return {
            "finished": first + second,
            "second_half_over_first": second / first if first else None,
            "backlog_left": self._waiting,
            "hit_rate": self._cached_tokens / self._prompt_tokens if self._prompt_tokens else None,
            "prompt_share": self._prompt_ps / work_ps if work_ps else None,
            "work_seconds": work_ps / 1e12,
            "recomputed_tokens": self._recomputed_tokens,
            "preempted": self._preempted,
        }

    def _counts(self, event: Event) -> bool:
        return self._span[0] <= event.now_ns < self._span[1]

    def _admitted(self, event: Admitted, prompt_tokens: int) -> None:
        known_tokens = self._lost.pop(event.request_id, 0) if event.resumed else prompt_tokens
        self._waiting -= not event.resumed and event.now_ns < self._span[1]
        if not self._counts(event):
            return
        new_tokens = max(known_tokens - event.cached_tokens, 0)
        if event.resumed:
            self._recomputed_tokens += new_tokens
        else:
            self._prompt_tokens += prompt_tokens
            self._cached_tokens += event.cached_tokens
        self._prompt_ps += self._price(
            StepShape(new_tokens, attention_pairs(new_tokens, event.cached_tokens))
        )

    def _ended(self, event: Finished, prompt_tokens: int) -> None:
        start_ns, end_ns = self._span
        self._finished[event.now_ns >= (start_ns + end_ns) // 2] += 1
        decodes = max(event.num_output_tokens - 1, 0)  # the first token comes with the prompt
        context = decodes * prompt_tokens + decodes * (decodes + 1) // 2
        self._answer_ps += self._price(StepShape(decodes, 0, decodes, context))

    def _price(self, added: StepShape) -> int:
        whole = StepShape(*(a + b for a, b in zip(self._full, added, strict=True)))
        step_time = self._machine.step_time
        return step_time.picoseconds(whole) - step_time.picoseconds(self._full)
