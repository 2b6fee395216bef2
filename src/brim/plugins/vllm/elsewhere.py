"""KV that a connector loads from elsewhere, and where that makes a request wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from brim.core.hosted import HostedScheduler
from brim.plugins.vllm.compat import RequestStatus
from brim.plugins.vllm.not_now import Blocked, NotNow

_MOST_STEPS = 16  # that a request is set aside


class Elsewhere:
    """Whom vLLM was to let in and did not, for the connector's sake. Nobody where there is no connector."""

    def __init__(self, scheduler: Any, not_now: NotNow) -> None:
        self._scheduler = scheduler
        self._not_now = not_now
        self._steps_aside: dict[str, int] = {}  # steps left, of those that must ask again
        self._last_time: dict[str, int] = {}  # steps that they were set aside for

    def set_aside(self, brim: HostedScheduler, ordered: Iterable[str], blocked: Blocked) -> None:
        """After a step: sets aside who loads now, `blocked` until that is done, and who must ask again.

        vLLM goes on to the next where the connector has no answer yet. Ordered in every step, such a request
        would cost all behind it the tokens planned for it: each time it is set aside for more steps.
        """
        if self._scheduler.connector is None:
            return
        for request in self._scheduler.kv_holding_waiting:
            if request.request_id not in blocked:
                self._last_time.pop(request.request_id, None)
                blocked.look_at(brim, request)
        for request_id in ordered:
            request = self._scheduler.requests[request_id]
            if request.status == RequestStatus.RUNNING:
                self.forget(request_id)
            elif request_id not in blocked and request in self._scheduler.deferred_waiting:
                steps = min(2 * self._last_time.get(request_id, 0) or 1, _MOST_STEPS)
                self._last_time[request_id] = self._steps_aside[request_id] = steps
                self._not_now.set_aside(brim, request_id, self)

    def bring_back(self, brim: HostedScheduler) -> None:
        """Before a step: who was set aside for enough steps may ask again."""
        for request_id in list(self._steps_aside):
            self._steps_aside[request_id] -= 1
            if self._steps_aside[request_id] < 0:
                del self._steps_aside[request_id]
                self._not_now.bring_back(brim, request_id, self)

    def forget(self, request_id: str) -> None:
        self._steps_aside.pop(request_id, None)
        self._last_time.pop(request_id, None)


def at_stake(scheduler: Any, model_runner_output: Any) -> Mapping[str, int]:
    """What those that run have computed, where the worker says that loaded blocks were lost."""
    moved = model_runner_output.kv_connector_output
    if moved is None or not moved.invalid_block_ids:
        return {}
    return {request.request_id: request.num_computed_tokens for request in scheduler.running}


def lost(scheduler: Any, computed: Mapping[str, int]) -> bool:
    """Whether any of them have to compute again what they had; told behind `update_from_output`."""
    if not computed:
        return False
    if not scheduler.scheduler_config.async_scheduling:
        for request in scheduler.running:
            # vLLM drops what those that lost KV drew, but not its place, if its scheduler could be ahead
            request.num_output_placeholders = 0
    return any(
        request.num_computed_tokens < computed.get(request.request_id, 0) for request in scheduler.running
    )
