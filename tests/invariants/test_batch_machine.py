"""Random histories of uploads, answers, cancels, clock jumps and restarts against a simple model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.batch_api.batch_harness import (
    ARROWS,
    TERMINAL,
    Client,
    Clock,
    HeldHost,
    check_ended,
    good_file,
    names,
    serving,
    stamps_are_monotone,
)


def reachable(status: str) -> set[str]:
    found = {status}
    for following in ARROWS.get(status, ()):
        found |= reachable(following)
    return found


class BatchMachine(RuleBasedStateMachine):
    """Draws never depend on how far the jobs have come, so a failing history can be replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="brim-machine-"))
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.host = HeldHost()
        self.lines: dict[str, list[str]] = {}
        self.last: dict[str, dict[str, Any]] = {}
        self.client: Client
        self.open()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def within_time() -> Any:
            async with asyncio.timeout(30):
                return await work

        return self.loop.run_until_complete(within_time())

    def open(self) -> None:
        self.serving = serving(self.folder, self.host.submit, window=3, clock=self.clock)
        self.api, self.client = self.do(self.serving.__aenter__())

    def close(self) -> None:
        self.do(self.serving.__aexit__(None, None, None))

    def some_batch(self, number: int) -> str | None:
        names = [*self.lines]
        return names[number % len(names)] if names else None

    @rule(count=st.integers(1, 5), window=st.sampled_from(["1m", "1h"]))
    def create(self, count: int, window: str) -> None:
        prefix = f"batch-{len(self.lines)}"
        file = self.do(self.client.upload(good_file(count, prefix)))
        batch = self.do(self.client.create(file["id"], completion_window=window))
        self.lines[batch["id"]] = names(count, prefix)

    @rule(number=st.integers(0, 9), status=st.sampled_from([200, 400]))
    def answer(self, number: int, status: int) -> None:
        self.do(asyncio.sleep(0.002))
        held = [future for future in self.host.held.values() if not future.done()]
        if held:
            held[number % len(held)].set_result(status)

    @rule(number=st.integers(0, 9))
    def cancel(self, number: int) -> None:
        if (batch_id := self.some_batch(number)) is not None:
            response = self.do(self.client.http.post(f"/v1/batches/{batch_id}/cancel"))
            assert response.status_code in (200, 400)
            assert (response.status_code == 400) <= (
                self.do(self.client.batch(batch_id))["status"] in TERMINAL
            )

    @rule(number=st.integers(0, 9))
    def delete_input(self, number: int) -> None:
        if (batch_id := self.some_batch(number)) is not None:
            batch = self.do(self.client.batch(batch_id))
            response = self.do(self.client.http.delete(f"/v1/files/{batch['input_file_id']}"))
            ended = self.do(self.client.batch(batch_id))["status"] in TERMINAL
            assert response.status_code in ((200, 404, 400) if ended else (400,))

    @rule(seconds=st.sampled_from([-86_400, -30, 1, 30, 90, 4_000]))
    def move_clock(self, seconds: int) -> None:
        self.clock.seconds += seconds
        self.do(self.api.tick())

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    @invariant()
    def moves_follow_the_diagram(self) -> None:
        for batch_id, custom_ids in self.lines.items():
            batch, before = self.do(self.client.batch(batch_id)), self.last.get(batch_id)
            counts = batch["request_counts"]
            assert counts["completed"] + counts["failed"] <= counts["total"]
            assert counts["total"] in (0, len(custom_ids))
            assert stamps_are_monotone(batch)
            if before is not None:
                assert batch["status"] in reachable(before["status"])
                stamps = {name: at for name, at in before.items() if name.endswith("_at") and at is not None}
                assert stamps.items() <= batch.items(), "a stamp never changes"
            assert (batch["output_file_id"] or batch["error_file_id"]) is None or batch["status"] in TERMINAL
            self.last[batch_id] = batch

    async def _run_out(self) -> None:
        for batch_id, custom_ids in self.lines.items():
            while (batch := await self.client.batch(batch_id))["status"] not in TERMINAL:
                for future in self.host.held.values():
                    if not future.done():
                        future.set_result(200)
                await asyncio.sleep(0.002)
            await check_ended(self.client, batch, custom_ids)

    def teardown(self) -> None:
        try:
            self.do(self._run_out())
            self.close()
            self.open()
            for batch_id, before in self.last.items():
                after = self.do(self.client.batch(batch_id))
                assert before["status"] not in TERMINAL or after == before, (
                    "a restart changes nothing that ended"
                )
        finally:
            self.close()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.folder)


BatchMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBatchMachine = BatchMachine.TestCase
