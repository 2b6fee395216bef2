"""Requests that vLLM can't let in yet: no decision counts on them.

They wait for their grammar, for KV from elsewhere, or for room for their adapter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
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

    It counts the adapters of those that run in a step: who sits it out needs a place as well. While an online
    request waits for a place, no offline one with an adapter enters: so the adapters of these end. Nobody is
    here where the engine has no adapters.
    """

    def __init__(self, scheduler: Any, not_now: NotNow) -> None:
        self._scheduler = scheduler
        self._not_now = not_now
        self._most = 0 if scheduler.lora_config is None else int(scheduler.lora_config.max_loras)
        self._in_use: set[int] | None = None  # at the last look at all
        self._open = {0}  # those in use, and as many more as have room: of these requests may enter
        self._online_aside: set[str] = set()  # at least these: one may have been let in since the last look
        self._new: dict[str, Request] = {}  # requests not yet looked at

    def told(self, request: Request) -> None:
        if self._most and adapter(request):
            self._new[request.request_id] = request

    def look(self, brim: HostedScheduler) -> None:
        """Before a step, at newcomers; at all who wait where that may change something for them."""
        if not self._most:
            return
        new, self._new = self._new, {}
        in_use = {adapter(request) for request in self._scheduler.running} - {0}
        if in_use != self._in_use or any(self._changes(brim, request) for request in new.values()):
            self._in_use = in_use
            self._look_at_all(brim)
        else:
            self._sort_out(brim, new.values())

    def _changes(self, brim: HostedScheduler, request: Request) -> bool:
        """Whether a newcomer may change something for others."""
        if adapter(request) in self._open:
            return False
        first_online = not (self._online_aside or brim.is_offline(request.request_id))
        return len(self._open) <= self._most or first_online

    def _look_at_all(self, brim: HostedScheduler) -> None:
        here = chain(self._scheduler.kv_holding_waiting, self._scheduler.waiting)
        waiting = [request for request in here if adapter(request)]
        self._open = {0, *(self._in_use or ())}  # without an adapter is 0
        for request in sorted(waiting, key=lambda request: brim.is_offline(request.request_id)):
            if len(self._open) <= self._most:
                self._open.add(adapter(request))
        aside = [request.request_id for request in waiting if adapter(request) not in self._open]
        self._online_aside = {request_id for request_id in aside if not brim.is_offline(request_id)}
        self._sort_out(brim, waiting)

    def _sort_out(self, brim: HostedScheduler, waiting: Iterable[Request]) -> None:
        for request in waiting:
            if self._may(brim, request):
                self._not_now.bring_back(brim, request.request_id, self)
            else:
                self._not_now.set_aside(brim, request.request_id, self)
                if not brim.is_offline(request.request_id):
                    self._online_aside.add(request.request_id)

    def _may(self, brim: HostedScheduler, request: Request) -> bool:
        """Whether it may enter."""
        if adapter(request) not in self._open:
            return False
        return not (self._online_aside and brim.is_offline(request.request_id))

    def with_room(self, request_ids: Sequence[str]) -> Sequence[str]:
        """Of those that may enter the ones whose adapters have room."""
        if not self._most:
            return request_ids
        return [name for name in request_ids if adapter(self._scheduler.requests[name]) in self._open]

    def forget(self, request_id: str) -> None:
        self._new.pop(request_id, None)
        if request_id in self._online_aside:
            self._in_use = None  # the offline ones that it held back are to be looked at
