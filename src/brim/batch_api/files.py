"""The bytes of files on disk. A file is there whole or not at all; its name is its random id."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

Fault = Callable[[str], None]
"""Called with the name of each durable step as it is passed; a test kills the process there."""


def new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(16)}"


def sync_folder(folder: Path) -> None:
    """Makes the names in it durable. Blocks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileFolder:
    """One folder of files named by id. Every method blocks on the disk: call them in a thread."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self._folder = folder
        self._fault = fault

    def open(self, keep: Collection[str]) -> None:
        """Makes the folder, and removes what a crash left in it: everything but the ids in `keep`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if path.name not in keep:
                path.unlink()

    def path(self, file_id: str) -> Path:
        """`file_id` must be one of ours, never a client's text."""
        return self._folder / file_id

    def write(self, file_id: str, chunks: Iterable[bytes]) -> int:
        """Writes the file durably and returns its bytes. Raises OSError, then nothing is left behind."""
        part = self._folder / f"{file_id}.{secrets.token_hex(4)}.part"
        try:
            with part.open("xb") as file:
                size = sum(file.write(chunk) for chunk in chunks)
                self._fault("file.written")
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.path(file_id))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._fault("file.renamed")
        sync_folder(self._folder)
        return size

    def read(self, file_id: str, spans: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (byte offset, byte length)."""
        pieces = []
        with self.path(file_id).open("rb") as file:
            for byte_offset, byte_length in spans:
                file.seek(byte_offset)
                pieces.append(file.read(byte_length))
        return pieces

    def remove(self, file_id: str) -> None:
        self.path(file_id).unlink(missing_ok=True)
