"""Who gets the next place."""

from __future__ import annotations

import asyncio

from brim.batch_api.window import Window


def test_the_smallest_key_is_next_and_equal_keys_go_in_order_of_arrival() -> None:
    entered: list[str] = []

    async def enter(window: Window, key: int, name: str) -> None:
        await window.acquire((key,))
        entered.append(name)
        window.release()

    async def scenario() -> None:
        window = Window(1)
        await window.acquire((0,))
        async with asyncio.TaskGroup() as group:
            for key, name in [(2, "late"), (1, "first"), (1, "second")]:
                group.create_task(enter(window, key, name))
            await asyncio.sleep(0)
            window.release()
        assert window.held == 0

    asyncio.run(scenario())
    assert entered == ["first", "second", "late"]


def test_a_place_is_not_lost_with_a_waiter_that_is_cancelled() -> None:
    async def scenario() -> None:
        window = Window(1)
        await window.acquire((0,))
        waiting, next_one = (asyncio.create_task(window.acquire((key,))) for key in (1, 2))
        await asyncio.sleep(0)
        window.release()
        waiting.cancel()  # its turn has come, but it has not run yet
        await next_one
        assert waiting.cancelled()
        window.release()
        assert window.held == 0

    asyncio.run(scenario())
