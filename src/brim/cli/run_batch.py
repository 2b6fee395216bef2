"""`brim run-batch`: the lines of a batch file through the same scheduler and protocol, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from brim.batch_api.lines import BatchLine, answered
from brim.batch_api.validation import Findings, InputLine, check
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


def run_batch(settings: RunBatchSettings, source: Path, target: Path) -> dict[str, Any]:
    """Answers every line of `source` into `target`, in the form of the Batch API's output lines.

    Lines that fail are written there too, with their status and error. `target` appears when all are
    done. Returns the summary. Raises ConfigError with the first problems of a file that is not right.
    """
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
    endpoint = _endpoint(source)
    findings = _checked(source, endpoint, None)  # before the model is loaded
    options = ServiceOptions(model_names=(settings.served_model_name,) if settings.served_model_name else ())
    start = time.monotonic()
    with running(settings, options, tell) as host:
        _checked(source, endpoint, host.service.model_names)
        part = target.with_name(target.name + ".part")
        moved_on = bar(len(findings.lines), "Running")
        with source.open("rb") as reading, part.open("wb") as writing, moved_on as done:
            lines = _read(reading, findings.lines, endpoint)
            counts = asyncio.run(_run(host.service, lines, writing, settings.batch_window, done))
        part.replace(target)
        note = host.caps.note
    return {
        "output": str(target),
        "completed": counts["completed"],
        "failed": counts["failed"],
        "input_tokens": counts["input_tokens"],
        "cached_tokens": counts["cached_tokens"],
        "output_tokens": counts["output_tokens"],
        "seconds": round(time.monotonic() - start, 3),
        "note": note,
    }


async def _run(
    service: OpenAIService,
    lines: Iterator[BatchLine],
    writing: BinaryIO,
    window: int,
    done: Callable[[], None],
) -> Counter[str]:
    counts: Counter[str] = Counter()

    async def work() -> None:
        for line in lines:  # shared: each worker takes the next one
            record = answered(line, await submit_line(service, line))
            writing.write(record.answer)
            counts.update(
                {
                    record.state: 1,
                    "input_tokens": record.input_tokens,
                    "cached_tokens": record.cached_tokens,
                    "output_tokens": record.output_tokens,
                }
            )
            done()

    async with asyncio.TaskGroup() as workers:
        for _ in range(window):
            workers.create_task(work())
    return counts


def _read(reading: BinaryIO, lines: list[InputLine], endpoint: str) -> Iterator[BatchLine]:
    expires_at = int(time.time()) + DAY_SECONDS
    for line in lines:
        reading.seek(line.byte_offset)
        request = orjson.loads(reading.read(line.byte_length))
        yield BatchLine(BATCH_ID, line.line_number, line.custom_id, endpoint, request["body"], expires_at)


def _endpoint(source: Path) -> str:
    """The url of the first line; all others have to be the same."""
    if not source.is_file():
        raise ConfigError(f"there is no input file {source}")
    with source.open("rb") as file:
        first = file.readline(MAX_LINE_BYTES)
    try:
        url = json.loads(first.removeprefix(b"\xef\xbb\xbf"))["url"]
    except (ValueError, KeyError, TypeError):
        url = None
    if url in SCHEMAS:
        return str(url)
    served = " or ".join(SCHEMAS)
    raise ConfigError(f"line 1 of {source} has no 'url' that is served here: give it {served}")


def _checked(source: Path, endpoint: str, models: tuple[str, ...] | None) -> Findings:
    findings = check(
        source, endpoint=endpoint, models=models, max_lines=MAX_LINES, max_line_bytes=MAX_LINE_BYTES
    )
    if findings.problems:
        shown = [f"  line {p.line or '-'}: {p.message} ({p.code})" for p in findings.problems[:10]]
        more = len(findings.problems) - len(shown)
        raise ConfigError(
            "\n".join([f"{source} is not right:", *shown, *([f"  and {more} more"] if more else [])])
        )
    return findings
