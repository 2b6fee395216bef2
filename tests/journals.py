"""Hosts that run by themselves, with a scheduler in their shadow that writes a journal."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from brim.core.estimators.step_time import StepTime
from brim.core.hosted import HostedScheduler
from brim.core.policy import Policy
from brim.core.request import SLO, TaskClass
from brim.plugins.journal import JournaledScheduler
from tests.helpers import MS, config, request
from tests.hosted import FakeHost

STALL_NS = 9_000 * MS


class WritingHost(FakeHost):
    """`depth` steps under way, each one millisecond after the one before."""

    def __init__(self, path: Path, depth: int = 2, gpus: int | None = None, **changes: Any) -> None:
        self._path, self._gpus = path, gpus
        limits = {"num_blocks": 40, "block_size": 4, "max_num_batched_tokens": 16, "policy": "brim"}
        super().__init__(config(**(limits | changes)), depth=depth)

    def make(self, policy: Policy | None) -> HostedScheduler:
        return JournaledScheduler(self.config, self, self._path, gpus=self._gpus)

    def serve(self) -> WritingHost:
        while self.requests or self._in_flight:
            self.watched_step()
        self.scheduler.close()
        return self


class TimedHost(WritingHost):
    """Its steps take what `step_time` says; now and then one stalls."""

    def __init__(self, path: Path, step_time: StepTime) -> None:
        limits = {"num_blocks": 400, "block_size": 16, "max_model_len": 1024, "max_num_seqs": 24}
        super().__init__(path, depth=1, **limits, max_num_batched_tokens=256)
        self._step_time = step_time
        self.stalls = 0

    def _finish(self) -> None:
        shape = self.scheduler._in_flight[0].shape
        assert shape is not None
        self.now_ns += self._step_time.picoseconds(shape) // 1000
        if len(self.ended) // 50 > self.stalls:
            self.stalls += 1
            self.now_ns += STALL_NS
        super()._finish()

    def busy(self, count: int, seed: int) -> TimedHost:
        """Serves so many chats and batch lines that come by chance."""
        rng, slo = Random(seed), SLO(ttft_ns=500 * MS, tpot_ns=50 * MS)
        for i in range(count):
            kind = rng.choice([TaskClass.ONLINE, TaskClass.OFFLINE])
            told = {"slo": slo} if kind is TaskClass.ONLINE else {}
            prompt, most = [i, *range(rng.randint(1, 400))], rng.randint(1, 60)
            self.add(request(f"r{i}", prompt, most, task_class=kind, arrival_ns=self.now_ns, **told))
            for _ in range(rng.randint(0, 8)):
                self.watched_step()
        self.serve()
        return self
