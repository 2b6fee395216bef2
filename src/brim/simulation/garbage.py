"""Python's cycle collector during a simulation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 200_000  # more objects made than freed, before it looks


@contextmanager
def collected_seldom() -> Iterator[None]:
    """A simulation makes next to no cycles, and holds many objects that the collector would walk through."""
    before = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
