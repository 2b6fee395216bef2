"""Records how long the answers got, for `brim profile train-lengths`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from brim.core.errors import ConfigError
from brim.core.estimators.served_length import ServedLength
from brim.core.events import Arrived, Event, Finished
from brim.core.request import FinishReason, Request

log = logging.getLogger("brim")

MAX_BEHIND = 10_000  # answers not yet written: a disk that is slower than that is given up
_LINES_PER_WRITE = 256

Observe = Callable[[Sequence[Event]], None]


class LengthLog:
    """Appends one line for each request that ended by itself, in a thread of its own.

    `observe` is for the engine thread and only notes what ended. Where a line can't be written, that is
    logged once and no further one is tried.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._under_way: dict[str, Request] = {}
        self._ended: SimpleQueue[tuple[Request, int] | None] = SimpleQueue()  # None: no more will come
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="brim-lengths", daemon=True)
        self._thread.start()

    def observe(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Arrived):
                self._under_way[event.request.request_id] = event.request
            elif isinstance(event, Finished):
                request = self._under_way.pop(event.request_id, None)
                if request is not None and event.reason in (FinishReason.STOP, FinishReason.LENGTH):
                    self._note(request, event.num_output_tokens)

    def close(self) -> None:
        """Writes what is noted, and closes the file."""
        self._ended.put(None)
        self._thread.join()

    def _note(self, request: Request, num_output_tokens: int) -> None:
        if self._failed:
            return
        if self._ended.qsize() >= MAX_BEHIND:
            self._fail("the disk is too slow")
            return
        self._ended.put((request, num_output_tokens))

    def _run(self) -> None:
        try:
            with self._file:
                while lines := self._next_lines():
                    self._file.write(b"".join(lines))
                    self._file.flush()
        except Exception as exc:
            self._fail(str(exc))

    def _next_lines(self) -> list[bytes]:
        """Waits for the first one; empty at the end."""
        lines: list[bytes] = []
        while len(lines) < _LINES_PER_WRITE and not (lines and self._ended.empty()):
            ended = self._ended.get()
            if ended is None:
                self._ended.put(None)  # for the next call, which finds nothing else
                break
            lines.append(ServedLength.of(*ended).to_json().encode() + b"\n")
        return lines

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            log.error("answers' lengths are no longer recorded: %s", reason)


@contextmanager
def recording(path: Path | None) -> Iterator[Observe | None]:
    """What an engine loop's `observe` should be, None without a path. Raises ConfigError for a bad one."""
    if path is None:
        yield None
        return
    lengths = LengthLog(_opened(path))
    try:
        yield lengths.observe
    finally:
        lengths.close()


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("a+b")
        if file.tell() and _last_byte(file) != b"\n":  # a crash cut the last line short
            file.write(b"\n")
    except OSError as exc:
        raise ConfigError(f"can't write to {path} ({exc.strerror}): record_lengths needs a file") from exc
    return file


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, 2)
    return file.read(1)
