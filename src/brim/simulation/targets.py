"""The SLO of each request of a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brim.core.request import SLO, TaskClass
from brim.simulation.machine import Machine
from brim.workloads.trace import NANOSECONDS, TraceRequest


@dataclass(frozen=True, slots=True)
class Targets:
    """For online requests the given ones; offline requests are due when the trace says so.

    `scale` sets an end-to-end target for each online request: scale x (t_prompt + t_token x output tokens),
    both times those of the request alone on the machine, t_token at the mean context of its answer. That
    is the SLO of EconoServe's experiments as it is remembered, not quoted. The scheduler is told its two
    parts, as a TTFT and a TPOT target: the sum would tell it the length of the answer.
    """

    ttft_ns: int | None = None
    tpot_ns: int | None = None
    itl_ns: int | None = None
    e2e_ns: int | None = None
    scale: float | None = None

    def of(self, request: TraceRequest, machine: Machine) -> SLO:
        """What the request is judged by."""
        if request.task_class is TaskClass.OFFLINE:
            seconds = request.deadline_s
            return SLO() if seconds is None else SLO(e2e_ns=round(seconds * NANOSECONDS))
        return SLO(self.ttft_ns, self.tpot_ns, self.itl_ns, self._e2e_ns(request, machine))

    def told(self, request: TraceRequest, machine: Machine) -> SLO:
        """What the scheduler knows of that."""
        judged = self.of(request, machine)
        if self.scale is None or request.task_class is TaskClass.OFFLINE:
            return judged
        parts_ps = machine.alone_ps(request.input_tokens, 1)
        ttft_ns, tpot_ns = (round(self.scale * part_ps / 1000) for part_ps in parts_ps)
        if self.ttft_ns is not None:
            ttft_ns = min(ttft_ns, self.ttft_ns)
        if self.tpot_ns is not None:
            tpot_ns = min(tpot_ns, self.tpot_ns)
        return replace(judged, ttft_ns=ttft_ns, tpot_ns=tpot_ns, e2e_ns=None)

    def _e2e_ns(self, request: TraceRequest, machine: Machine) -> int | None:
        if self.scale is None:
            return self.e2e_ns
        output_tokens = max(request.output_tokens, 1)  # every answer has one
        prompt_ps, token_ps = machine.alone_ps(request.input_tokens, output_tokens)
        return round(self.scale * (prompt_ps + token_ps * output_tokens) / 1000)
