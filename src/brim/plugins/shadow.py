"""What Brim would have done while the engine went its own way, added up."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import quantiles

from brim.core.hosted import Foreseen, HostedScheduler

_REMEMBERED = 10_000  # steps


class Shadow:
    """Each step is foreseen from where the engine is by then: what Brim would do if it began with that step.

    Both kinds of step time are predictions of Brim's model, so that they can be compared.
    """

    def __init__(self) -> None:
        self._foreseen: Foreseen | None = None
        self._steps = self._different = 0
        self._offline_tokens = self._hosts_offline_tokens = 0
        self._step_ns: deque[int] = deque(maxlen=_REMEMBERED)
        self._hosts_step_ns: deque[int] = deque(maxlen=_REMEMBERED)

    def foresee(self, brim: HostedScheduler, now_ns: int) -> None:
        self._foreseen = brim.foresee(now_ns)

    def ran(self, brim: HostedScheduler, scheduled: Mapping[str, int]) -> None:
        """What the engine ran instead."""
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is None or not scheduled:
            return
        self._steps += 1
        self._different += foreseen.scheduled != scheduled
        self._offline_tokens += brim.offline_tokens(foreseen.scheduled)
        self._hosts_offline_tokens += brim.offline_tokens(scheduled)
        hosts_ns = brim.newest_step_ns()
        if foreseen.step_ns is not None and hosts_ns is not None:
            self._step_ns.append(foreseen.step_ns)
            self._hosts_step_ns.append(hosts_ns)

    def figures(self) -> dict[str, float]:
        """Of all steps; step times in seconds, the p99 of the last 10,000."""
        found = {
            "shadow_steps_total": float(self._steps),
            "shadow_steps_different_total": float(self._different),
            "shadow_offline_tokens_total": float(self._offline_tokens),
            "shadow_stock_offline_tokens_total": float(self._hosts_offline_tokens),
        }
        if len(self._step_ns) > 1:
            found["shadow_step_seconds_p99"] = quantiles(self._step_ns, n=100)[-1] / 1e9
            found["shadow_stock_step_seconds_p99"] = quantiles(self._hosts_step_ns, n=100)[-1] / 1e9
        return found
