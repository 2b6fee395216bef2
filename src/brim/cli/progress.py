"""What the user sees while a model loads and a batch runs, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def tell(text: str) -> None:
    """One line about what is being done."""
    Console(stderr=True).print(f"{text} ...", style="dim", highlight=False)


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A function that moves a bar of `total` things on by one."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)


def open_bar(total: int, what: str) -> Callable[[], None]:
    """The same for callers without a place to close it: it closes when all are done."""
    opened = bar(total, what)
    advance, left = opened.__enter__(), total

    def moved() -> None:
        nonlocal left
        advance()
        left -= 1
        if not left:
            opened.__exit__(None, None, None)

    return moved
