"""When jobs will be done: in the order of their turn, by what ended of late, and only where it is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

from brim.batch_api.backlog import BacklogWatch
from tests.unit.batch_api.batch_harness import Clock, HeldHost, eventually, good_file, serving

S = 1_000_000_000


def watch(left: dict[str, int], window: int = 10) -> BacklogWatch:
    """After 16 seconds in each of which 4 lines ended."""
    watch = BacklogWatch(window)
    for second in range(17):
        watch.observe(second * S, 4 * second, left)
    return watch


def test_nothing_is_known_at_first() -> None:
    fresh = BacklogWatch(10)
    fresh.observe(0, 0, {"a": 40})
    assert fresh.whole().lines == 40
    assert fresh.whole().completion is None
    assert fresh.of("a") is None


def test_a_single_job_is_done_with_the_backlog() -> None:
    alone = watch({"a": 40})
    assert alone.of("a") == alone.whole().completion
    assert alone.of("other") is None


def test_a_job_waits_for_those_before_it_and_for_a_window_of_others() -> None:
    several = watch({"a": 40, "b": 80, "c": 200})

    def bounds(own: int, last: int) -> tuple[float, float]:
        """Of jobs alone: what `own` lines take at least, and `last` at most."""
        least, most = watch({"x": own}).of("x"), watch({"x": last}).of("x")
        assert least is not None
        assert most is not None
        return least.least_seconds, most.most_seconds

    assert several.of("a") == bounds(40, 50)
    assert several.of("b") == bounds(80, 130)
    assert several.of("c") == bounds(200, 320)


def test_a_job_tells_when_it_will_be_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        host, clock, elapsed_ns = HeldHost(), Clock(), 0
        options = {"clock": clock, "elapsed_ns": lambda: elapsed_ns, "window": 8}
        async with serving(tmp_path, host.submit, **options) as (api, client):
            file = await client.upload(good_file(60))
            job = (await client.create(file["id"]))["id"]
            await eventually(lambda: len(host.held) == 8)
            await api.tick()
            assert (await client.batch(job))["completion_forecast"] is None
            for second in range(1, 17):
                for name in list(host.held)[:2]:
                    host.held[name].set_result(200)
                await eventually(lambda done=2 * second: api.line_counts().completed == done)
                await eventually(lambda left=60 - 2 * second: len(host.held) == min(left, 8))
                elapsed_ns = second * S
                await api.tick()
            forecast = (await client.batch(job))["completion_forecast"]
            assert clock() + 7 < forecast["earliest_at"] < clock() + 14 < forecast["latest_at"] < clock() + 40
            assert api.backlog().lines == 28
            assert api.backlog().completion is not None
            cancelled = await client.cancel(job)
            assert cancelled["completion_forecast"] is None

    asyncio.run(scenario())
