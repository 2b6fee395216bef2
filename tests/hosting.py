"""A host in which Brim comes and goes while it serves."""

from __future__ import annotations

from typing import Any

from brim.core.hosted import HostedScheduler, Orders
from brim.core.request import SLO
from brim.plugins.hosting import Hosting
from tests.helpers import MS, config, request
from tests.hosted import FakeHost

ASKED = {"num_blocks": 40, "block_size": 4, "max_model_len": 64, "max_num_seqs": 8}
TARGETS = SLO(ttft_ns=1_000 * MS, tpot_ns=100 * MS)


class Engine(FakeHost):
    """Decides by itself, first come first served, unless Brim is there."""

    gpus = 4

    def __init__(self) -> None:
        super().__init__(config(**ASKED, max_num_batched_tokens=32))
        self.hosting = Hosting(self)
        self.engaged: list[bool] = []

    def limits(self) -> dict[str, Any]:
        return {**ASKED, "max_num_batched_tokens": 32}

    def engage(self, brim: HostedScheduler, slo: SLO, *, active: bool) -> None:
        self.engaged.append(active)
        self.pool.observer = brim.observer
        for name in self.running:
            brim.adopt(self.requests[name].asked, self.now_ns)
        for name in self.waiting:
            brim.add(self.requests[name].asked, self.now_ns)

    def disengage(self) -> None:
        self.pool.observer = None

    def turn(self) -> dict[str, int]:
        """One step, taken in at once; what was scheduled."""
        self.now_ns += MS
        hosting, given = self.hosting, list[Orders]()
        if hosting.changes:
            hosting.change()

        def order(brim: HostedScheduler, now_ns: int) -> None:
            given.extend(filter(None, [hosting.order(now_ns, self.waiting, paused=False)]))

        hosting.guarded(order, self.now_ns)
        scheduled, preempted = self._schedule(given[0] if given else Orders(list(self.waiting)))
        idle = not scheduled and bool(self.requests)
        plan = hosting.guarded(
            lambda brim, now_ns: hosting.ran(scheduled, preempted, now_ns, idle=idle), self.now_ns
        )
        step = object()
        hosting.launched(step, plan, runs=bool(scheduled))
        over = [name for name in scheduled if self._take_token(name, scheduled)]
        for name in over:
            self._end(name)
        if (landed := hosting.landed(step)) is not None:
            hosting.guarded(lambda brim: hosting.ended(landed, {}, over, self.now_ns))
        hosting.check()
        return scheduled

    def ask(self, name: str, prompt_tokens: int = 9, **more: Any) -> None:
        max_tokens = min(12, ASKED["max_model_len"] - prompt_tokens)
        asked = request(name, prompt_tokens, max_tokens, arrival_ns=self.now_ns, **more)
        hosting, known = self.hosting, self.scheduler
        self.add(asked)
        known.abort(name, self.now_ns)  # the scheduler of the fake itself has no part in this
        hosting.guarded(lambda brim: brim.add(asked, self.now_ns))

    def serve(self, turns: int = 200) -> None:
        for _ in range(turns):
            if not self.requests:
                return
            self.turn()
        raise AssertionError(f"still here: {list(self.requests)}")
