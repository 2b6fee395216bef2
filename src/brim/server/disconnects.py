"""Clients leave; what was done for them stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

ResultT = TypeVar("ResultT")


async def left(receive: Receive) -> None:
    """Returns when the client is gone. Only once the request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def left_within(seconds: float, receive: Receive) -> bool:
    """Waits that long; true at once when the client leaves."""
    try:
        async with asyncio.timeout(seconds):
            await left(receive)
    except TimeoutError:
        return False
    return True


async def run_unless(stop: Coroutine[Any, Any, None], work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """What `work` returns; None where `stop` returned first and `work` was cancelled. Nothing runs on."""
    stopping, working = asyncio.create_task(stop), asyncio.create_task(work)
    try:
        await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.gather(stopping, working, return_exceptions=True)
    if working.cancelled():
        stopping.result()  # raises what it raised
        return None
    return working.result()
