"""Requests that vLLM can't let in yet: no decision counts on them.

They wait for their grammar, for KV from elsewhere, or for room for their adapter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

from brim.core.hosted import HostedScheduler
from brim.plugins.vllm.compat import Request, adapter


class NotNow:
    """Who is set aside in Brim, and by whom: a request is brought back when nobody keeps it aside any more.

    vLLM may let it in all the same, if things changed since it was asked: Brim takes that as it comes.
    """

    def __init__(self) -> None:
        self._keepers: dict[str, set[object]] = {}

    def set_aside(self, brim: HostedScheduler, request_id: str, keeper: object) -> None:
        if not brim.is_aside(request_id):
            brim.set_aside(request_id, time.monotonic_ns())
            self.forget(request_id)  # who kept it aside before vLLM let it in
        self._keepers.setdefault(request_id, set()).add(keeper)

    def bring_back(self, brim: HostedScheduler, request_id: str, keeper: object) -> None:
        """As far as this keeper is concerned."""
        keepers = self._keepers.get(request_id)
        if keepers is None:
            return
        keepers.discard(keeper)
        if not keepers:
            del self._keepers[request_id]
            brim.bring_back(request_id, time.monotonic_ns())

    def forget(self, request_id: str) -> None:
        self._keepers.pop(request_id, None)


class Blocked:
    """Whom vLLM itself holds back, whoever decides: their grammar is being compiled, or their KV loaded."""

    def __init__(self, scheduler: Any, not_now: NotNow) -> None:
        self._scheduler = scheduler
        self._not_now = not_now
        self._here: dict[str, Request] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._here

    def look_at(self, brim: HostedScheduler, request: Request) -> None:
        """At one that waits."""
        if self._scheduler._is_blocked_waiting_status(request.status):
            self._here[request.request_id] = request
            self._not_now.set_aside(brim, request.request_id, self)

    def bring_back(self, brim: HostedScheduler) -> None:
        """Before a step: who is held back no more."""
        for request in list(self._here.values()):
            if self._scheduler._handle_blocked_waiting_request(request):
                self.loaded(request)
                del self._here[request.request_id]
                self._not_now.bring_back(brim, request.request_id, self)

    def loaded(self, request: Request) -> None:
        """Its load is over. For one that came to nothing vLLM would go on to keep room, and let nobody in."""
        if not request.num_computed_tokens:
            self._scheduler._inflight_prefills.discard(request)

    def forget(self, request_id: str) -> None:
        self._here.pop(request_id, None)


class Adapters:
    """Whom vLLM could not let in for want of room for one LoRA adapter more.

    It counts the adapters of those that run in a step: who sits it out needs a place as well. Nobody is here
    where the engine has no adapters.
    """

    def __init__(self, scheduler: Any, not_now: NotNow) -> None:
        self._scheduler = scheduler
        self._not_now = not_now
        self._most = 0 if scheduler.lora_config is None else int(scheduler.lora_config.max_loras)
        self._only: set[int] | None = None  # who else may enter, where there is no room for more
        self._new: dict[str, Request] = {}  # requests not yet looked at

    def told(self, request: Request) -> None:
        if self._most and adapter(request):
            self._new[request.request_id] = request

    def look(self, brim: HostedScheduler) -> None:
        """Before a step, at newcomers; at all who wait where other adapters are in use than before."""
        if not self._most:
            return
        in_use, before = self._in_use(), self._only
        self._only = in_use if len(in_use) >= self._most else None
        new, self._new = self._new.values(), {}
        scheduler = self._scheduler
        everybody = chain(scheduler.kv_holding_waiting, scheduler.waiting)
        for request in new if self._only == before else everybody:
            if self._only is None or adapter(request) in {0, *self._only}:
                self._not_now.bring_back(brim, request.request_id, self)
            else:
                self._not_now.set_aside(brim, request.request_id, self)

    def with_room(self, request_ids: Sequence[str]) -> Sequence[str]:
        """Of those that may enter, in this order, the ones whose adapters find room together."""
        if not (self._most and request_ids):
            return request_ids
        in_use, found = self._in_use(), []
        for request_id in request_ids:
            wanted = in_use | {adapter(self._scheduler.requests[request_id])} - {0}
            if len(wanted) <= self._most:
                in_use = wanted
                found.append(request_id)
        return found

    def forget(self, request_id: str) -> None:
        self._new.pop(request_id, None)

    def _in_use(self) -> set[int]:
        return {adapter(request) for request in self._scheduler.running} - {0}
