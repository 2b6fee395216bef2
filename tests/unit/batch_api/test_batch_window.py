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


def test_no_more_come_in_than_the_most_cautious_bears() -> None:
    entered: list[str] = []

    async def scenario() -> None:
        window = Window(4)

        async def enter(key: int, name: str, most: int | None = None) -> None:
            await window.acquire((key,), most)
            entered.append(name)

        async with asyncio.TaskGroup() as group:
            for key, name, most in [
                (1, "a", None),
                (1, "b", None),
                (2, "pair", 2),
                (3, "alone", 1),
                (4, "c", 9),
            ]:
                group.create_task(enter(key, name, most))
            await asyncio.sleep(0)
            assert entered == ["a", "b"], "who is first in the queue is not overtaken"
            for leaves, inside in [(None, "pair"), (None, None), (2, "alone"), (1, "c")]:
                before = [*entered]
                window.release(leaves)
                await asyncio.sleep(0)
                assert entered[len(before) :] == ([inside] if inside else [])
        window.release(9)
        assert window.held == 0

    asyncio.run(scenario())


def test_who_held_up_the_queue_and_is_cancelled_holds_it_up_no_more() -> None:
    async def scenario() -> None:
        window = Window(2)
        await window.acquire((1,))
        alone = asyncio.create_task(window.acquire((2,), 1))
        behind = asyncio.create_task(window.acquire((3,)))
        await asyncio.sleep(0)
        assert window.held == 1
        alone.cancel()
        await behind
        assert window.held == 2

    asyncio.run(scenario())


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
