"""`brim run-batch`: the lines of a batch file through the same scheduler and protocol, without a server."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from brim.batch_api.files import sync_folder
from brim.batch_api.lines import BatchLine, answered
from brim.batch_api.validation import Findings, InputLine, Problem, check
from brim.cli.host import running
from brim.cli.progress import bar, tell
from brim.cli.settings import RunBatchSettings
from brim.core.errors import ConfigError
from brim.server.lines import SCHEMAS, submit_line
from brim.server.options import ServiceOptions
from brim.server.service import OpenAIService

MAX_LINES = 1_000_000
MAX_LINE_BYTES = 8 << 20
BATCH_ID = "batch_local"
DAY_SECONDS = 86_400
SHOWN_PROBLEMS = 10


def run_batch(settings: RunBatchSettings, source: Path, target: Path) -> dict[str, Any]:
    """Answers every line of `source` into `target`, in the form of the Batch API's output lines.

    Lines that fail are written there too, with their status and error. `target` appears when all are
    done; until then the answers are in a file beside it, and the same command goes on from there. Returns
    the summary. Raises ConfigError where a file is not right, with the first problems of the input.
    """
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
    findings = _checked(source, None)  # all that can be wrong, before the model is loaded
    written = _written(source, target)
    part = _part(source, written)
    options = ServiceOptions(model_names=(settings.served_model_name,) if settings.served_model_name else ())
    start = time.monotonic()
    with _alone(part) as writing, running(settings, options, tell) as host:
        _checked(source, host.service.model_names)
        with source.open("rb") as reading:
            answered_before = _whole_lines(writing)
            left = [line for line in findings.lines if line.custom_id not in answered_before]
            lines = _read(reading, left, str(findings.endpoint))
            with bar(len(left), "Running") as done:
                asyncio.run(_run(host.service, lines, writing, settings.batch_window, done))
        os.fsync(writing.fileno())
        part.replace(written)
        sync_folder(written.parent)
        note = host.caps.note
    seconds = round(time.monotonic() - start, 3)
    return {"output": str(target), **_counts(target), "seconds": seconds, "note": note}


def _written(source: Path, target: Path) -> Path:
    """The file that is replaced at the end: what a link points to, and never a device or a pipe."""
    if target.exists() and not target.is_file():
        raise ConfigError(f"{target} is no regular file, so it can't be replaced: give a file, or a new name")
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the input: give another output file")
    found = Path(os.path.realpath(target))
    if not found.parent.is_dir():
        raise ConfigError(f"can't write {target}: give a file in a folder that exists")
    return found


def _part(source: Path, target: Path) -> Path:
    """Where the answers gather. Its name holds a digest of the input: another input begins anew."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return target.with_name(f"{target.name}.{digest[:12]}.part")


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """The file opened to be added to, for this process only. Nothing is left of one that stayed empty.

    Raises ConfigError where it can't be written, or where another process adds to it.
    """
    try:
        file = part.open("a+b")
    except OSError as exc:
        raise ConfigError(f"can't write {part} ({exc.strerror}): give an output file elsewhere") from exc
    with file:
        if not _locked(file, part):
            raise ConfigError(f"another run-batch writes {part}: let it end, or give another output file")
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def _locked(file: BinaryIO, path: Path) -> bool:
    """Whether the file is ours until it is closed, and still has that name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Between opening and locking, the one before us may have given it its last name.
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _whole_lines(writing: BinaryIO) -> set[str]:
    """The custom_ids answered by an earlier run; a last line that was cut short is cut off."""
    writing.seek(0)
    end, found = 0, set()
    for raw in writing:
        if not raw.endswith(b"\n"):
            break
        found.add(orjson.loads(raw)["custom_id"])
        end += len(raw)
    writing.truncate(end)
    return found


def _counts(target: Path) -> dict[str, int]:
    counts = dict.fromkeys(("completed", "failed", "input_tokens", "cached_tokens", "output_tokens"), 0)
    with target.open("rb") as file:
        for raw in file:
            response = orjson.loads(raw)["response"]
            counts["failed" if response["status_code"] >= 400 else "completed"] += 1
            usage = response["body"].get("usage")
            if usage:
                counts["input_tokens"] += usage["prompt_tokens"]
                counts["cached_tokens"] += usage["prompt_tokens_details"]["cached_tokens"]
                counts["output_tokens"] += usage["completion_tokens"]
    return counts


async def _run(
    service: OpenAIService,
    lines: Iterator[BatchLine],
    writing: BinaryIO,
    window: int,
    done: Callable[[], None],
) -> None:
    async def work() -> None:
        for line in lines:  # shared: each worker takes the next one
            writing.write(answered(line, await submit_line(service, line)).answer)
            writing.flush()
            done()

    workers = [asyncio.create_task(work()) for _ in range(window)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()


def _read(reading: BinaryIO, lines: list[InputLine], endpoint: str) -> Iterator[BatchLine]:
    expires_at = int(time.time()) + DAY_SECONDS
    for line in lines:
        reading.seek(line.byte_offset)
        request = orjson.loads(reading.read(line.byte_length))
        yield BatchLine(BATCH_ID, line.line_number, line.custom_id, endpoint, request["body"], expires_at)


def _checked(source: Path, models: Collection[str] | None) -> Findings:
    """Raises ConfigError with the first problems of the file."""
    if not source.is_file():
        raise ConfigError(f"there is no input file {source}")
    findings = check(
        source, endpoints=tuple(SCHEMAS), models=models, max_lines=MAX_LINES, max_line_bytes=MAX_LINE_BYTES
    )
    if findings.problems:
        shown = [f"  {_where(p)}{p.message} ({p.code})" for p in findings.problems[:SHOWN_PROBLEMS]]
        more = len(findings.problems) - len(shown)
        raise ConfigError(
            "\n".join([f"{source} is not right:", *shown, *([f"  and {more} more"] if more else [])])
        )
    return findings


def _where(problem: Problem) -> str:
    return "" if problem.line is None else f"line {problem.line}: "
