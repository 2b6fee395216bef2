"""The driver sees what it is there to see: each of these schedulers is broken in one way."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from tests.plugins.vllm.driver import Driver, Limits
from tests.plugins.vllm.histories import Traffic, check_answers

SCARCE = Limits(num_blocks=22)


class Leaking(AsyncScheduler):
    """Holds on to the blocks of every tenth request that ends."""

    ended = 0

    def _free_request_blocks(self, request: Any) -> None:
        self.ended += 1
        if self.ended % 10:
            super()._free_request_blocks(request)
        else:
            self.kv_cache_manager.pop_blocks_for_free(request)


class Stealing(AsyncScheduler):
    """Gives away a block under a running request, with a clean count."""

    def schedule(self, *args: Any, **more: Any) -> Any:
        scheduled = super().schedule(*args, **more)
        pool = self.kv_cache_manager.block_pool
        manager = self.kv_cache_manager.coordinator.single_type_managers[0]
        if self.running and self.current_step % 50 == 0:
            row = manager.req_to_blocks[self.running[0].request_id]
            stolen, row[0] = row[0], pool.get_new_blocks(1)[0] if pool.get_num_free_blocks() else row[0]
            if stolen is not row[0]:
                pool.free_blocks([stolen])
        return scheduled


class Forgetful(AsyncScheduler):
    """Loses a request that waits."""

    def schedule(self, *args: Any, **more: Any) -> Any:
        if self.current_step % 100 == 99 and self.waiting:
            self.waiting.pop_request()
        return super().schedule(*args, **more)


class Lazy(AsyncScheduler):
    """Stops for good after a hundred steps."""

    def schedule(self, *args: Any, **more: Any) -> Any:
        if self.current_step > 100:
            self.max_num_scheduled_tokens = 0
        return super().schedule(*args, **more)


class Skipping(AsyncScheduler):
    """Counts a token as computed that no worker computed."""

    def schedule(self, *args: Any, **more: Any) -> Any:
        waiting = next(iter(self.waiting), None)
        scheduled = super().schedule(*args, **more)
        if (
            waiting is not None
            and waiting.request_id in scheduled.num_scheduled_tokens
            and waiting.is_prefill_chunk
        ):
            waiting.num_computed_tokens += 1
        return scheduled


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Leaking, "held and counted differ"),
        (Stealing, "reads what it did not write"),
        (Forgetful, "in no queue"),
        (Lazy, "stuck"),
        (Skipping, "reads what it did not write"),
    ],
)
def test_a_broken_scheduler_is_caught(broken: Any, complaint: str) -> None:
    driver = Driver(broken, SCARCE)
    with pytest.raises(AssertionError, match=complaint):
        Traffic(driver, seed=0).run(steps=600)


def test_the_same_seed_is_the_same_history() -> None:
    runs = [Driver(AsyncScheduler, SCARCE) for _ in range(2)]
    for driver in runs:
        Traffic(driver, seed=5).run(steps=200)
        check_answers(driver)
    assert runs[0].tokens == runs[1].tokens
    assert runs[0].steps == runs[1].steps
