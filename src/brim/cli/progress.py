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
    with bars() as begin:
        yield begin(what, total)


@contextmanager
def bars() -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A function that begins a bar of so many things, below those before it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:

        def begin(what: str, total: int) -> Callable[[], None]:
            task = shown.add_task(what, total=total)
            return lambda: shown.advance(task)

        yield begin
